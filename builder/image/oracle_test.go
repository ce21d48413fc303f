package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"containerd-shim-uni/builder/image"
	"containerd-shim-uni/builder/tree"
)

// layerOf makes a layer of bytes: each entry is of three. Names are few, so that
// entries meet. Whiteouts come first, those of all of a directory before others,
// as whoever makes layers has them: what one behind an entry of its own layer
// means is not said anywhere, and containerd's snapshotters differ in it.
func layerOf(t testing.TB, data []byte) []byte {
	names := []string{"a", "b", "a/c", "a/d", "b/e", "a/c/f", "b/e/g"}
	type entry struct {
		tar.Header
		body string
	}
	var opaque, first, rest []entry
	for ; len(data) >= 3; data = data[3:] {
		name := names[int(data[1])%len(names)]
		other := names[int(data[2])%len(names)]
		h := tar.Header{Name: name, Mode: int64(data[2])<<1&0o777 | 0o600, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(int64(data[2]), 0), Format: tar.FormatPAX}
		switch data[0] % 8 {
		case 0, 1:
			h.Typeflag = tar.TypeReg
			rest = append(rest, entry{h, strings.Repeat("x", int(data[2]))})
		case 2, 3:
			h.Typeflag, h.Mode = tar.TypeDir, h.Mode|0o700
			rest = append(rest, entry{h, ""})
		case 4:
			h.Typeflag, h.Linkname = tar.TypeSymlink, []string{other, "/" + other, "../" + other, "nowhere"}[data[2]/64]
			rest = append(rest, entry{h, ""})
		case 5:
			h.Typeflag, h.Linkname = tar.TypeLink, other
			rest = append(rest, entry{h, ""})
		case 6:
			h.Typeflag, h.Name = tar.TypeReg, filepath.Join(filepath.Dir(name), ".wh."+filepath.Base(name))
			first = append(first, entry{h, ""})
		case 7:
			h.Typeflag, h.Name = tar.TypeReg, filepath.Join(filepath.Dir(name), ".wh..wh..opq")
			opaque = append(opaque, entry{h, ""})
		}
	}
	slices.SortStableFunc(opaque, func(a, b entry) int { return strings.Count(a.Name, "/") - strings.Count(b.Name, "/") })
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range slices.Concat(opaque, first, rest) {
		e.Size = int64(len(e.body))
		ok(t, w.WriteHeader(&e.Header))
		_, err := io.WriteString(w, e.body)
		ok(t, err)
	}
	ok(t, w.Close())
	return b.Bytes()
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ours applies layers by Flatten.
func ours(t testing.TB, layers [][]byte) (*tree.Node, error) {
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	ok(t, err)
	for _, data := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		ok(t, err)
		img, err = mutate.AppendLayers(img, l)
		ok(t, err)
	}
	dir := t.TempDir()
	_, err = layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))
	ok(t, err)
	i, err := image.Open(t.Context(), "oci:"+dir, image.Options{TempDir: dir})
	ok(t, err)
	t.Cleanup(func() { ok(t, i.Close()) })
	all, err := i.Flatten(t.Context())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { ok(t, all.Close()) })
	return all.Root, nil
}

// theirs applies layers by containerd, to a directory.
func theirs(t testing.TB, layers [][]byte) (*tree.Node, error) {
	dir := t.TempDir()
	for _, data := range layers {
		options := []archive.ApplyOpt{archive.WithNoSameOwner()}
		if os.Getuid() == 0 {
			options = nil
		}
		if _, err := archive.Apply(t.Context(), dir, bytes.NewReader(data), options...); err != nil {
			return nil, err
		}
	}
	return tree.Scan(t.Context(), dir)
}

// describe is what a tree holds: the times of directories depend on when what is
// in them was made.
func describe(t testing.TB, root *tree.Node) string {
	var b strings.Builder
	first := map[*tree.Node]string{}
	ok(t, root.Walk(func(path string, n *tree.Node) error {
		if path == "/" {
			return nil
		}
		fmt.Fprintf(&b, "%s %o", path, n.Mode)
		switch {
		case n.IsLink():
			fmt.Fprintf(&b, " -> %s", n.Target)
		case n.IsFile():
			r, err := n.Reader()
			ok(t, err)
			h := sha256.New()
			_, err = io.Copy(h, r)
			ok(t, errors.Join(err, r.Close()))
			fmt.Fprintf(&b, " %d bytes %s, changed %d, %d names", n.Size, hex.EncodeToString(h.Sum(nil)[:4]), n.Mtime, n.Links)
			if at := first[n]; at != "" {
				fmt.Fprintf(&b, " = %s", at)
			}
			first[n] = path
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

// FuzzMerge applies layers here and by containerd, which is what has applied them
// for everybody else.
func FuzzMerge(f *testing.F) {
	f.Add([]byte{0, 0, 9, 2, 0, 5, 0, 2, 3}, []byte{6, 2, 0, 0, 3, 1}, []byte{7, 2, 1})
	f.Add([]byte{2, 0, 0, 4, 1, 0, 0, 4, 7}, []byte{5, 3, 4, 6, 1, 1}, []byte{2, 1, 1})
	f.Fuzz(func(t *testing.T, one, two, three []byte) {
		var layers [][]byte
		for _, data := range [][]byte{one, two, three} {
			layers = append(layers, layerOf(t, data[:min(len(data), 60)]))
		}
		want, werr := theirs(t, layers)
		got, err := ours(t, layers)
		if err != nil || werr != nil {
			// Both may refuse, each by rules of its own: what one refuses the other
			// may make something of, such as a file in the way of a directory.
			return
		}
		if a, b := describe(t, want), describe(t, got); a != b {
			t.Errorf("containerd has\n%s\nthis is\n%s", a, b)
		}
	})
}
