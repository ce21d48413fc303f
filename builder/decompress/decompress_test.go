package decompress

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/unikernel"
)

func TestReader(t *testing.T) {
	const text = "some text that is long enough"
	var zipped, zst bytes.Buffer
	for _, w := range []io.WriteCloser{gzip.NewWriter(&zipped), must(zstd.NewWriter(&zst))} {
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		in, want   string
		compressed bool
	}{
		"plain": {text, text, false}, "empty": {"", "", false}, "short": {"x", "x", false},
		"gzip": {zipped.String(), text, true}, "zstd": {zst.String(), text, true},
	} {
		r, compressed, err := Reader(strings.NewReader(tt.in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(got) != tt.want || compressed != tt.compressed {
			t.Errorf("%s: %q, compressed %t, %v", name, got, compressed, err)
		}
	}
	if _, _, err := Reader(strings.NewReader("\x1f\x8b rubbish")); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a wrong header: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
