package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/boundtest"
)

// Limits of these tests, in bytes: what the buffers of a layer take (a MiB each
// to decompress, spool and discard), and what a tree may take while its layer's
// entries are read, which pass through several hands.
const (
	buffers = 16 << 20
	parsing = 3
)

func withXattrs(name string, n, size int) entry {
	records := map[string]string{}
	for i := range n {
		records[fmt.Sprintf("%suser.%d", xattrRecord, i)] = strings.Repeat("x", size)
	}
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatPAX, PAXRecords: records}, ""}
}

// refused says that a layer, compressed, is refused for its size.
func refused(t *testing.T, limit uint64, want error, entries ...entry) {
	t.Helper()
	data := tarFile(t, entries...)
	l := newLayer("test", zstdOf(t, data), digestOf(data))
	t.Logf("%d KiB, uncompressed %d", l.size>>10, len(data)>>10)
	boundtest.Most(t, limit, func() {
		if _, err := flattenAll(t, l); !errors.Is(err, unikernel.ErrInvalid) || !errors.Is(err, want) {
			t.Errorf("error %v", err)
		}
	})
}

// Attributes beyond what a file can have are refused at the first of them, those
// beyond what an image has when there are too many.
func TestManyXattrs(t *testing.T) {
	var large, many []entry
	for i := range 40 {
		large = append(large, withXattrs(fmt.Sprint(i), 15, 64<<10))
	}
	for i := range 1200 {
		many = append(many, withXattrs(fmt.Sprint(i), 1, 60<<10))
	}
	refused(t, buffers, unikernel.ErrInvalid, large...)
	refused(t, buffers+parsing*128<<20, tree.ErrTooLarge, many...)
}

// A layer that is named many times is there once.
func TestLayerNamedOften(t *testing.T) {
	var entries []entry
	for i := range 10_000 {
		entries = append(entries, file(fmt.Sprintf("d/%d", i), ""))
	}
	layer := tarFile(t, entries...)
	var all [][]byte
	for range 60 {
		all = append(all, layer)
	}
	all = append(all, tarFile(t, file("d/.wh.7", ""), file("d/8", "new")))
	boundtest.Most(t, 256<<20, func() { // 60 copies of the nodes that each application makes, of 200 bytes
		root, err := flattenLayers(t, all...)
		must(t, err)
		d := root.Child("d")
		if len(d.Entries) != 9_999 || d.Child("7") != nil || d.Child("8").Size != 3 || d.Child("9").Links != 1 {
			t.Errorf("%d entries", len(d.Entries))
		}
	})
}

// A document of many small elements does not become large.
func TestManyElements(t *testing.T) {
	for name, data := range map[string]string{
		"descriptors": `{"manifests":[{}` + strings.Repeat(",{}", 1<<20) + `]}`,
		"nested":      `{"manifests":` + strings.Repeat(`[`, 1<<20) + strings.Repeat(`]`, 1<<20) + `}`,
		"long":        `{"x":"` + strings.Repeat("x", maxManifest) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, indexFile), []byte(data), 0o600))
			boundtest.Most(t, 16<<20, func() {
				if _, err := Open(t.Context(), "oci:"+dir, Options{}); !errors.Is(err, unikernel.ErrInvalid) {
					t.Errorf("error %.300v", err)
				}
			})
		})
	}
}

// Names in an archive are bounded by what paths have, and all together.
func TestArchiveOfNames(t *testing.T) {
	for name, length := range map[string]int{"long": 500_000, "many": 4000} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "archive.tar"))
			must(t, err)
			defer f.Close()
			w := tar.NewWriter(f)
			for i := range 10_000_000 / length * 3 {
				must(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d%s", i, strings.Repeat("/n", length/2)), Typeflag: tar.TypeReg, Format: tar.FormatPAX}))
			}
			must(t, w.Close())
			boundtest.Most(t, buffers+parsing*64<<20, func() {
				if _, err := Open(t.Context(), "oci-archive:"+f.Name(), Options{}); !errors.Is(err, unikernel.ErrInvalid) {
					t.Errorf("error %.300v", err)
				}
			})
		})
	}
}

// What an image unpacks to is kept on a disk: beside the output, else in
// /var/tmp, and nowhere if there is no disk.
func TestSpoolDir(t *testing.T) {
	if in, err := isInMemory("/dev"); err != nil || !in {
		t.Errorf("/dev is on a tmpfs: %v, %v", in, err)
	}
	if _, err := isInMemory("/nowhere"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	old := isInMemory
	defer func() { isInMemory = old }()
	t.Setenv("TMPDIR", "/the/temp")
	for _, tt := range []struct{ dir, memory, want string }{
		{"/out", "/var/tmp", "/out"}, {"/out", "/out", "/var/tmp"}, {"/out", "/out /var/tmp", ""},
		{"", "/out", "/the/temp"}, {"", "/the/temp", "/var/tmp"},
	} {
		isInMemory = func(dir string) (bool, error) { return strings.Contains(" "+tt.memory+" ", " "+dir+" "), nil }
		if got, err := spoolDir(tt.dir); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
}

// FuzzArchive opens whatever an archive is.
func FuzzArchive(f *testing.F) {
	plain := tarFile(f, file(indexFile, `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"sha256:x"}]}`))
	f.Add(plain)
	f.Add(zstdOf(f, plain))
	f.Add(tarFile(f, file(dockerManifestFile, `[{"Config":"c.json","Layers":["l/layer.tar"]}]`), file("c.json", `{"rootfs":{"diff_ids":[""]}}`), link("l/layer.tar", "../c.json")))
	layout := makeTar(f, makeLayout(f, mutate.IndexAddendum{Add: makeImage(f, tarFile(f, file("a", "1")))}))
	data, err := os.ReadFile(layout)
	must(f, err)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "archive")
		must(t, os.WriteFile(name, data, 0o600))
		boundtest.Most(t, 256<<20, func() {
			i, err := Open(t.Context(), "oci-archive:"+name, Options{})
			if err == nil {
				var all *Tree
				if all, err = i.Flatten(t.Context()); err == nil {
					must(t, all.Close())
				}
				must(t, i.Close())
			}
			if err != nil && !isInvalid(err) && !errors.Is(err, unikernel.ErrNotFound) && !errors.Is(err, unikernel.ErrNotImplemented) {
				t.Errorf("error %v is of no kind", err)
			}
		})
	})
}

// FuzzDiskInfo reads what an image says of the disk that it is.
func FuzzDiskInfo(f *testing.F) {
	f.Add([]byte(`{"version":1,"guest":"linux","filesystem":"erofs","format":"raw","size":4096,"manifest":{"config":{"Env":["a=b"]}}}`), int64(4096))
	f.Add([]byte(`{"version":2}`), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		layer := tarFile(t, entry{tar.Header{Name: unikernel.DiskInfoFile, Typeflag: tar.TypeReg}, string(data)},
			entry{tar.Header{Name: unikernel.DiskFile, Typeflag: tar.TypeReg}, strings.Repeat("\x00", int(uint64(size)%8192))})
		out, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		must(t, err)
		defer out.Close()
		info, err := unpackDisk(out, bytes.NewReader(layer))
		root, ferr := flattenLayers(t, layer)
		must(t, ferr)
		r, finished, ok, ferr := FinishedDisk(root)
		if !ok || (err == nil) != (ferr == nil) {
			t.Errorf("pulled: %v; run: %v", err, ferr)
		}
		if err == nil {
			if st, serr := out.Stat(); serr != nil || st.Size() != info.Size || finished != info.DiskInfo {
				t.Errorf("%+v and %+v, %v", info, finished, serr)
			}
			must(t, r.(io.Closer).Close())
		} else if !isInvalid(err) && !errors.Is(err, unikernel.ErrNotImplemented) {
			t.Errorf("error %v is of no kind", err)
		}
	})
}
