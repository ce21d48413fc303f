package decompress

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/unikernel/boundtest"
)

// bomb is a zstd frame without a length: its header and blocks that repeat one
// byte (RFC 8878, 3.1.1): each of 4 bytes becomes 128 KiB. The window is 1 << (10
// + exponent) bytes.
func bomb(exponent byte, blocks int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3}
	for i := range blocks {
		head := uint32(128<<10)<<3 | 1<<1
		if i == blocks-1 {
			head |= 1
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 'x')
	}
	return b
}

// Decompression takes its buffers and the window, whatever comes out; a window
// beyond what is allowed is refused before it is made.
func TestMemory(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	for range 500 {
		must(w.Write(make([]byte, 1<<20)))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		in    []byte
		most  uint64
		bytes int64 // -1 for an error
	}{
		"gzip":              {zipped.Bytes(), 4 << 20, 500 << 20},
		"zstd":              {bomb(13, 4000), 32 << 20, 500 << 20}, // window 8 MiB
		"zstd, large":       {bomb(15, 4000), 2*maxZstdWindow + 8<<20, 500 << 20},
		"zstd, too large":   {bomb(16, 10), 4 << 20, -1},
		"zstd, as it gets":  {bomb(31, 10), 4 << 20, -1},
		"zstd, only claims": {bomb(15, 4000)[:9], 2*maxZstdWindow + 8<<20, -1},
	} {
		t.Run(name, func(t *testing.T) {
			boundtest.Most(t, tt.most, func() {
				r, _, err := Reader(bytes.NewReader(tt.in))
				if err != nil {
					t.Fatal(err)
				}
				n, err := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r})
				if tt.bytes < 0 && err == nil || tt.bytes >= 0 && (err != nil || n != tt.bytes) {
					t.Errorf("%d bytes, %v", n, err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// FuzzReader decompresses whatever it is given.
func FuzzReader(f *testing.F) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	must(w.Write([]byte("some text")))
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(zipped.Bytes())
	f.Add(must(zstd.NewWriter(nil)).EncodeAll([]byte("some text"), nil))
	f.Add(bomb(13, 3))
	f.Add([]byte("plain"))
	f.Fuzz(func(t *testing.T, data []byte) {
		boundtest.Most(t, 2*maxZstdWindow+16<<20, func() {
			r, compressed, err := Reader(bytes.NewReader(data))
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, io.LimitReader(r, 4<<20))
			if !compressed && (err != nil || n != int64(len(data))) {
				t.Errorf("plain: %d of %d bytes, %v", n, len(data), err)
			}
			_ = r.Close() // what is wrong was said
		})
	})
}
