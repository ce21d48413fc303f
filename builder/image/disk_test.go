package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"containerd-shim-uni/unikernel"
)

// written is a disk of one block with a manifest.
func written(t testing.TB) (Manifest, []byte) {
	t.Helper()
	m := Manifest{Guest: guestLinux, Filesystem: fsErofs, Size: diskBlock, Image: "sha256:0", Config: v1.Config{Cmd: []string{"/x"}, Env: []string{"A=b"}}}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(m.Size))
	block, err := m.block(func(int64) int64 { return m.Size })
	must(t, err)
	_, err = f.WriteAt(block, m.Size)
	must(t, err)
	data, err := os.ReadFile(f.Name())
	must(t, err)
	return m, data
}

func TestManifest(t *testing.T) {
	want, data := written(t)
	if len(data)%diskBlock != 0 {
		t.Errorf("the disk has %d bytes", len(data))
	}
	got, err := ReadManifest(bytes.NewReader(data), int64(len(data)))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	end := len(data)
	for name, tt := range map[string]struct {
		damage func([]byte) []byte
		want   error
	}{
		"none":     {func(b []byte) []byte { return b[:diskBlock] }, ErrNoManifest},
		"short":    {func(b []byte) []byte { return b[:10] }, ErrNoManifest},
		"version":  {func(b []byte) []byte { b[end-footerSize+8]++; return b }, unikernel.ErrNotImplemented},
		"length":   {func(b []byte) []byte { b[end-footerSize+15] = 0xff; return b }, unikernel.ErrInvalid},
		"offset":   {func(b []byte) []byte { b[end-footerSize+23] = 0xff; return b }, unikernel.ErrInvalid},
		"contents": {func(b []byte) []byte { b[diskBlock+5]++; return b }, ErrDigest},
	} {
		b := tt.damage(bytes.Clone(data))
		if _, err := ReadManifest(bytes.NewReader(b), int64(len(b))); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", name, err, tt.want)
		}
	}
}

func FuzzReadManifest(f *testing.F) {
	_, data := written(f)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := ReadManifest(bytes.NewReader(data), int64(len(data)))
		if err != nil && !errors.Is(err, unikernel.ErrInvalid) && !errors.Is(err, ErrNoManifest) && !errors.Is(err, unikernel.ErrNotImplemented) {
			t.Errorf("error %v", err)
		}
	})
}
