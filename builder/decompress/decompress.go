package decompress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/unikernel"
)

// bufferSize is how much is read at once, in bytes.
const bufferSize = 1 << 20

// maxZstdWindow bounds what decompression takes, in bytes: twice the window. It
// is the largest that encoders of container tools make at any level, and zstd's
// own up to level 20, without --long.
const maxZstdWindow = 32 << 20

// Reader returns what r holds, uncompressed if that is gzip or zstd, and says
// whether it was. Closing it does not close r. A wrong header is
// unikernel.ErrInvalid.
func Reader(r io.Reader) (_ io.ReadCloser, compressed bool, err error) {
	b := bufio.NewReaderSize(r, bufferSize)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, true, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
		}
		return z, true, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, true, err
		}
		return z.IOReadCloser(), true, nil
	}
	return io.NopCloser(b), false, nil
}
