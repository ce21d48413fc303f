package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/builder/tree"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entry is one of a layer; body is a file's contents.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}

func dir(name string) entry {
	return entry{tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func link(name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, ""}
}

func hard(name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}, ""}
}

// tarFile writes a layer.
func tarFile(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.body))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1000, 0)
		}
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, e.body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// makeImage makes an image of uncompressed layers, gzipped by the library.
func makeImage(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Entrypoint: []string{"/bin/app"}, Env: []string{"A=b"}},
	})
	must(t, err)
	for _, data := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		must(t, err)
		img, err = mutate.AppendLayers(img, l)
		must(t, err)
	}
	return img
}

// makeLayout writes images as a layout.
func makeLayout(t testing.TB, images ...mutate.IndexAddendum) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	_, err := layout.Write(dir, mutate.AppendManifests(empty.Index, images...))
	must(t, err)
	return dir
}

// makeTar packs a directory.
func makeTar(t testing.TB, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layout.tar"))
	must(t, err)
	defer f.Close()
	w := tar.NewWriter(f)
	must(t, w.AddFS(os.DirFS(dir)))
	must(t, w.Close())
	return f.Name()
}

// flatten opens a source and applies its layers.
func flatten(t testing.TB, source string, o Options) (*tree.Node, error) {
	t.Helper()
	i, err := Open(t.Context(), source, o)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { must(t, i.Close()) })
	all, err := i.Flatten(t.Context())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { must(t, all.Close()) })
	return all.Root, nil
}

// flattenLayers applies layers, without an image around them.
func flattenLayers(t testing.TB, layers ...[]byte) (*tree.Node, error) {
	t.Helper()
	var all []layer
	for n, data := range layers {
		all = append(all, newLayer(fmt.Sprint(n), data, digestOf(data)))
	}
	return flattenAll(t, all...)
}

func newLayer(name string, blob []byte, diffID v1.Hash) layer {
	return layer{
		name: name, digest: digestOf(blob), diffID: diffID, size: int64(len(blob)),
		open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil },
	}
}

func flattenAll(t testing.TB, layers ...layer) (*tree.Node, error) {
	t.Helper()
	i := &Image{Source: "test", layers: layers, close: func() error { return nil }}
	i.options.TempDir = t.TempDir()
	all, err := i.Flatten(t.Context())
	if left, _ := os.ReadDir(i.options.TempDir); len(left) > 0 {
		t.Errorf("%d files are left", len(left))
	}
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { must(t, all.Close()) })
	return all.Root, nil
}

func digestOf(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// list describes a tree in one line: path, what it is, contents, links.
func list(t testing.TB, root *tree.Node) string {
	t.Helper()
	var lines []string
	must(t, root.Walk(func(path string, n *tree.Node) error {
		what := ""
		switch {
		case path == "/":
			return nil
		case n.IsDir():
			path += "/"
		case n.IsLink():
			what = ">" + n.Target
		case n.IsFile():
			r, err := n.Reader()
			must(t, err)
			data, err := io.ReadAll(r)
			must(t, err)
			must(t, r.Close())
			what = "=" + string(data)
		case n.IsDevice():
			what = fmt.Sprintf("@%d:%d", n.Major, n.Minor)
		}
		if n.Links > 1 {
			what += fmt.Sprintf("*%d", n.Links)
		}
		lines = append(lines, path[1:]+what)
		return nil
	}))
	return strings.Join(lines, " ")
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(data, nil)
}

// changeFiles calls f for the files below dir.
func changeFiles(t testing.TB, dir string, f func(path string, data []byte) []byte) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		must(t, err)
		return os.WriteFile(path, f(path, data), 0o600)
	}))
}
