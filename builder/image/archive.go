package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"containerd-shim-uni/builder/decompress"
	"containerd-shim-uni/unikernel"
)

// archive is a tar file whose entries are found by name.
type archive struct {
	f       *os.File
	entries map[string]span
	links   map[string]string
}

type span struct{ at, size int64 }

// Far more than the blobs of any image: entries, and bytes of their names.
const (
	maxArchiveEntries = 100_000
	maxArchiveNames   = 16 << 20
)

// readArchive lists f's entries. A compressed archive is uncompressed to a
// file of dir first. On success it owns f.
func readArchive(ctx context.Context, f *os.File, dir string) (*archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r, compressed, err := decompress.Reader(contextReader{ctx, f})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if !compressed {
		return listArchive(ctx, f)
	}
	plain, err := unnamedFile(dir)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(plain, r)
	if err != nil {
		return nil, errors.Join(unikernel.ErrInvalid, err, plain.Close())
	}
	a, err := listArchive(ctx, plain)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	f.Close() // only read
	return a, nil
}

func listArchive(ctx context.Context, f *os.File) (*archive, error) {
	a := &archive{f: f, entries: map[string]span{}, links: map[string]string{}}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	all := io.NewSectionReader(f, 0, st.Size())
	t := tar.NewReader(all) // seeks over contents
	names := 0
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
		}
		at, err := all.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		names += len(h.Name) + len(h.Linkname)
		if len(h.Name) > maxPath || len(h.Linkname) > maxPath || names > maxArchiveNames {
			return nil, invalid("a name of more than %d bytes, or %d MiB of names", maxPath, maxArchiveNames>>20)
		}
		name := strings.Clone(path.Clean("/" + h.Name)[1:])
		switch h.Typeflag {
		case tar.TypeReg:
			if at+h.Size > st.Size() {
				return nil, fmt.Errorf("%q is cut off: %w", h.Name, unikernel.ErrInvalid)
			}
			a.entries[name] = span{at, h.Size}
		case tar.TypeSymlink: // docker saves a layer that it has already so
			a.links[name] = path.Join("/", path.Dir(name), h.Linkname)[1:]
		case tar.TypeLink:
			a.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
		if len(a.entries)+len(a.links) > maxArchiveEntries {
			return nil, fmt.Errorf("more than %d entries: %w", maxArchiveEntries, unikernel.ErrInvalid)
		}
	}
}

func (a *archive) openFile(name string) (io.ReadCloser, int64, error) {
	name = path.Clean("/" + name)[1:]
	s, ok := a.entries[name]
	if !ok {
		s, ok = a.entries[a.links[name]]
	}
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(a.f, s.at, s.size)), s.size, nil
}

func (a *archive) Close() error { return a.f.Close() }
