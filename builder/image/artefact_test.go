package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"containerd-shim-uni/unikernel"
)

// diskOf is a disk of an image with a volume and users.
func diskOf(t *testing.T) Disk {
	t.Helper()
	root, err := flattenLayers(t, tarFile(t, dir("etc"), file("etc/passwd", "me:x:5:5::/:\n"), link("etc/group", "../grp"), file("grp", "us:x:5:\n"),
		dir("data"), file("data/a", "1"), link("data/b", "a"), dir("data/c"), entry{tar.Header{Name: "data/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
		file("bin/app", "app")))
	must(t, err)
	m, data := written(t)
	m.OS, m.Architecture = "linux", "amd64"
	m.Config.Volumes = map[string]struct{}{"/data": {}, "data/c": {}, "/none": {}, "/": {}, "/.uni": {}, "/.uni/x": {}}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(data)
	must(t, err)
	return Disk{File: f, Format: "raw", Manifest: m, Root: root}
}

func packed(t *testing.T, d Disk) (*diskLayer, []byte) {
	t.Helper()
	l, err := newDiskLayer(t.Context(), d, nil)
	must(t, err)
	r, err := l.Compressed()
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, errors.Join(err, r.Close()))
	return l, data
}

func TestDiskLayer(t *testing.T) {
	d := diskOf(t)
	l, data := packed(t, d)
	if l.size != int64(len(data)) {
		t.Errorf("%d bytes, read were %d", l.size, len(data))
	}
	if again, other := packed(t, d); again.digest != l.digest || again.diffID != l.diffID || !bytes.Equal(data, other) {
		t.Error("the same disk makes another layer")
	}
	z, err := zstd.NewReader(bytes.NewReader(data))
	must(t, err)
	plain, err := io.ReadAll(z)
	must(t, err)
	root, err := flattenLayers(t, plain)
	must(t, err)
	for name, want := range map[string]uint32{".uni": 0o755, ".uni/disk.img": 0o444, ".uni/disk.json": 0o444, "etc": 0o755} {
		if n, _, err := root.Lookup(name); err != nil || n.Mode&0o7777 != want || n.UID != 0 {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	text := list(t, root)
	for _, want := range []string{"data/a=1 data/b>a data/c/ etc/ etc/group=us:x:5:\n etc/passwd=me:x:5:5::/:\n", `"format":"raw","size":8192`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the layer", want)
		}
	}
	for _, other := range []string{"data/null", "bin", "none"} {
		if _, _, err := root.Lookup(other); err == nil {
			t.Errorf("%s is in the layer", other)
		}
	}
	r, info, ok, err := FinishedDisk(root)
	if !ok || err != nil || info.Guest != guestLinux || info.Filesystem != fsErofs {
		t.Fatalf("%+v, %v, %v", info, ok, err)
	}
	if m, err := ReadManifest(r, info.Size); err != nil || m.Config.Cmd[0] != "/x" {
		t.Errorf("%+v, %v", m, err)
	}
}

// memoryBlobs is a registry of one blob.
type memoryBlobs []byte

func (b memoryBlobs) open(context.Context, v1.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}

func TestPullLayer(t *testing.T) {
	d := diskOf(t)
	l, good := packed(t, d)
	disk, err := os.ReadFile(d.File.Name())
	must(t, err)
	pull := func(data []byte, desc v1.Descriptor, diffID v1.Hash) ([]byte, error) {
		f, err := os.Create(filepath.Join(t.TempDir(), "pulled"))
		must(t, err)
		defer f.Close()
		if _, err := pullLayer(t.Context(), f, memoryBlobs(data), desc, diffID, nil); err != nil {
			return nil, err
		}
		return os.ReadFile(f.Name())
	}
	desc := v1.Descriptor{Size: l.size, Digest: l.digest}
	if got, err := pull(good, desc, l.diffID); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("another disk came back: %v", err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2]++
	for name, data := range map[string][]byte{"changed": flipped, "cut off": good[:len(good)-9], "longer": append(bytes.Clone(good), 0), "empty": nil} {
		if _, err := pull(data, desc, l.diffID); !errors.Is(err, ErrDigest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pull(good, desc, l.digest); !errors.Is(err, ErrDigest) {
		t.Errorf("another diff ID: %v", err)
	}
	image := func(entries ...entry) error {
		data := tarFile(t, entries...)
		sum := digestOf(data)
		_, err := pull(data, v1.Descriptor{Size: int64(len(data)), Digest: sum}, sum)
		return err
	}
	info := `{"version":1,"guest":"linux","filesystem":"erofs","format":"raw","size":2}`
	for name, err := range map[string]error{
		"no disk":   image(file(".uni/disk.json", info)),
		"no json":   image(file(".uni/disk.img", "ab")),
		"truncated": image(file(".uni/disk.json", info), file(".uni/disk.img", "a")),
		"two disks": image(file(".uni/disk.json", info), file(".uni/disk.img", "ab"), file(".uni/disk.img", "ab")),
		"a link":    image(file(".uni/disk.json", info), link(".uni/disk.img", "/etc/passwd")),
		"format":    image(file(".uni/disk.json", strings.Replace(info, "raw", "vmdk", 1)), file(".uni/disk.img", "ab")),
	} {
		if !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := image(file(".uni/disk.json", strings.Replace(info, ":1", ":2", 1)), file(".uni/disk.img", "ab"))
	if !errors.Is(newer, unikernel.ErrNotImplemented) || !strings.Contains(newer.Error(), "version 2") {
		t.Errorf("newer version: %v", newer)
	}
	if err := image(file(".uni/disk.img", "ab"), file(".uni/disk.json", info)); err != nil {
		t.Errorf("another order: %v", err)
	}
}
