package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"containerd-shim-uni/unikernel"
)

// ErrDigest is for contents that are not what their digest or size says. It is
// also an unikernel.ErrInvalid.
var ErrDigest = fmt.Errorf("contents do not match their digest: %w", unikernel.ErrInvalid)

// verifier passes a blob on and hashes it. What was read may be used only
// after check.
type verifier struct {
	r    io.Reader
	want v1.Hash
	size int64
	sum  hash.Hash
	n    int64
}

func newVerifier(r io.Reader, want v1.Hash, size int64) *verifier {
	return &verifier{r: r, want: want, size: size, sum: sha256.New()}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if v.n += int64(n); v.n > v.size {
		return 0, fmt.Errorf("%s has more than %d bytes: %w", v.want, v.size, ErrDigest)
	}
	return n, err
}

// check reads what is left and says whether all of it is what was wanted.
func (v *verifier) check() error {
	if _, err := io.Copy(io.Discard, v); err != nil {
		return err
	}
	if v.n != v.size {
		return fmt.Errorf("%s has %d bytes, not %d: %w", v.want, v.n, v.size, ErrDigest)
	}
	return sameDigest(v.sum, v.want)
}

func sameDigest(sum hash.Hash, want v1.Hash) error {
	if want.Algorithm != "sha256" {
		return fmt.Errorf("digest %s: only sha256 is known: %w", want, unikernel.ErrNotImplemented)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return fmt.Errorf("%s is sha256:%s: %w", want, got, ErrDigest)
	}
	return nil
}

// Progress counts bytes of the layers as they are read. Its methods may be
// called at any time.
type Progress struct{ done, total atomic.Int64 }

// Bytes returns how many bytes were read and how many there are.
func (p *Progress) Bytes() (done, total int64) { return p.done.Load(), p.total.Load() }

// reader counts what is read from r.
func (p *Progress) reader(r io.Reader) io.Reader {
	if p == nil {
		return r
	}
	return countReader{r, p}
}

func (p *Progress) expect(n int64) {
	if p != nil {
		p.total.Add(n)
	}
}

type countReader struct {
	r io.Reader
	p *Progress
}

func (c countReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.p.done.Add(int64(n))
	return n, err
}

// isInvalid says that err is about the input.
func isInvalid(err error) bool { return errors.Is(err, unikernel.ErrInvalid) }

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }
