package kerneltest

import (
	"archive/tar"
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Release is the files of a release that can be installed, by name. Another
// text makes another release.
func Release(text string) map[string]string {
	k := Nanos()
	k.Text += text
	boot := make([]byte, 1024)
	boot[510], boot[511] = 0x55, 0xaa
	return map[string]string{"boot.img": string(boot), "kernel.img": string(k.Bytes()), "klibs/tls": "library " + text, "klibs/ntp": ""}
}

// Write writes files below dir, which it returns.
func Write(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Tar is an archive of files in the order of their names. One whose name ends
// in a slash is a directory.
func Tar(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var headers []tar.Header
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		headers = append(headers, h)
	}
	return TarOf(t, headers, files)
}

// TarOf is an archive of entries with the contents that files has for them.
func TarOf(t testing.TB, headers []tar.Header, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if _, err := w.Write([]byte(files[h.Name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
