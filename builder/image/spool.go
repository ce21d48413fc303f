package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/builder/decompress"
	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

// layer is one layer of an image, as its source has it.
type layer struct {
	name   string  // for errors
	digest v1.Hash // of what open gives; zero when only diffID is known
	diffID v1.Hash // of the tar file in it
	size   int64   // of what open gives, in bytes
	open   func(context.Context) (io.ReadCloser, error)
}

// spooled is a layer on disk, verified.
type spooled struct {
	plain  *os.File // the uncompressed tar file
	sparse *os.File // expanded contents of sparse files, nil for none
	items  []item
	meter  *tree.Meter
}

func (s *spooled) Close() error {
	err := s.plain.Close()
	if s.sparse != nil {
		err = errors.Join(err, s.sparse.Close())
	}
	return err
}

// spoolBuffer is how much is written at once, in bytes.
const spoolBuffer = 1 << 20

// spool uncompresses a layer into a file of dir, verifies it and lists its
// entries, which m counts.
func (l layer) spool(ctx context.Context, dir string, p *Progress, m *tree.Meter) (_ *spooled, err error) {
	body, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw := io.Reader(p.reader(contextReader{ctx, body}))
	var blob *verifier
	if l.digest != (v1.Hash{}) && l.digest != l.diffID {
		blob = newVerifier(raw, l.digest, l.size)
		raw = blob
	}
	r, _, err := decompress.Reader(raw)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s := &spooled{meter: m}
	if s.plain, err = unnamedFile(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.read(ctx, r, l.diffID, dir, blob == nil); err != nil {
		// A blob that is not what it should be explains what else is wrong.
		if blob != nil && ctx.Err() == nil {
			if berr := blob.check(); errors.Is(berr, ErrDigest) {
				return nil, berr
			}
		}
		return nil, err
	}
	if blob != nil {
		return s, blob.check()
	}
	return s, nil
}

// read spools the tar file r, lists its entries and verifies it. With explain,
// it is also verified when it cannot be listed: a file that is not the right one
// explains that. Whoever has the digest of a compressed blob asks that instead,
// which is no longer than it says.
func (s *spooled) read(ctx context.Context, r io.Reader, diffID v1.Hash, dir string, explain bool) error {
	out := bufio.NewWriterSize(s.plain, spoolBuffer)
	sum := sha256.New()
	pos := &counter{}
	listErr := s.list(ctx, io.TeeReader(r, io.MultiWriter(out, sum, pos)), pos, dir)
	to := io.MultiWriter(out, sum)
	if listErr != nil {
		if !isInvalid(listErr) || !explain {
			return listErr
		}
		to = sum
	}
	if _, err := io.CopyBuffer(writerOnly{to}, r, make([]byte, spoolBuffer)); err != nil {
		return cmp.Or(listErr, inputError(err))
	}
	if err := sameDigest(sum, diffID); err != nil {
		return fmt.Errorf("uncompressed: %w", err)
	}
	if listErr != nil {
		return listErr
	}
	return out.Flush()
}

// inputError marks errors of decompression, which have no common type.
func inputError(err error) error {
	var corrupt, gz = errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum)
	if corrupt || gz || errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, tar.ErrHeader) {
		return fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	return err
}

// writerOnly hides ReadFrom, which would bring a buffer of its own.
type writerOnly struct{ io.Writer }

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// list reads the entries. pos counts what was read of the tar file.
func (s *spooled) list(ctx context.Context, r io.Reader, pos *counter, dir string) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return inputError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		it, err := newItem(h)
		if err == nil {
			err = s.count(it)
		}
		if err != nil {
			return fmt.Errorf("entry %.300q: %w", h.Name, err)
		}
		if it.link == "" && it.node.Size > 0 {
			it.node.Data = section{s.plain, pos.n, it.node.Size, false}
			if isSparse(h) {
				if it.node.Data, err = s.expand(ctx, t, h.Size, dir); err != nil {
					return fmt.Errorf("entry %.300q: %w", h.Name, err)
				}
			}
		}
		s.items = append(s.items, it)
	}
}

// count counts what an entry takes until its layer is applied, and after.
func (s *spooled) count(it item) error {
	if err := s.meter.Name(it.path); err != nil {
		return err
	}
	if err := s.meter.Name(it.link); err != nil {
		return err
	}
	return s.meter.Node(it.node)
}

// isSparse says whether the contents in the tar file are not the file's.
func isSparse(h *tar.Header) bool {
	return h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" ||
		h.PAXRecords["GNU.sparse.size"] != ""
}

// sparseUnit is the granularity of holes, in bytes.
const sparseUnit = 64 << 10

// maxSparse bounds the length of all sparse files of a layer, in bytes: their
// holes take time, some seconds for each 10 GiB, whatever the layer's own size.
// Tests lower it.
var maxSparse int64 = 256 << 30

// expand writes a sparse file's contents to a file of their own, with holes.
func (s *spooled) expand(ctx context.Context, r io.Reader, size int64, dir string) (section, error) {
	if s.sparse == nil {
		f, err := unnamedFile(dir)
		if err != nil {
			return section{}, err
		}
		s.sparse = f
	}
	st, err := s.sparse.Stat()
	if err != nil {
		return section{}, err
	}
	base := st.Size()
	if size > maxSparse-base {
		return section{}, invalid("sparse files of more than %d GiB", maxSparse>>30)
	}
	if err := s.sparse.Truncate(base + (size+sparseUnit-1)/sparseUnit*sparseUnit); err != nil {
		return section{}, err
	}
	buf, zero := make([]byte, sparseUnit), make([]byte, sparseUnit)
	for pos := int64(0); pos < size; {
		if err := ctx.Err(); err != nil {
			return section{}, err
		}
		chunk := buf[:min(sparseUnit, size-pos)]
		if _, err := io.ReadFull(r, chunk); err != nil {
			return section{}, inputError(err)
		}
		if !bytes.Equal(chunk, zero[:len(chunk)]) {
			if _, err := s.sparse.WriteAt(chunk, base+pos); err != nil {
				return section{}, err
			}
		}
		pos += int64(len(chunk))
	}
	return section{s.sparse, base, size, true}, nil
}

// section is a file's contents within a spooled file.
type section struct {
	f        *os.File
	at, size int64
	sparse   bool
}

// Open implements tree.Opener.
func (s section) Open() (tree.Content, error) { return s, nil }

// Close implements tree.Content; the file belongs to the layer.
func (s section) Close() error { return nil }

// ReadAt implements tree.Content.
func (s section) ReadAt(p []byte, off int64) (int, error) {
	return io.NewSectionReader(s.f, s.at, s.size).ReadAt(p, off)
}

// NextData implements tree.Sparse.
func (s section) NextData(pos, size int64) (start, end int64, err error) {
	if !s.sparse {
		return pos, size, nil
	}
	start, end, err = hostfs.SeekData(s.f, s.at+pos, s.at+size)
	return start - s.at, end - s.at, err
}
