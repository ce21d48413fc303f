package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// addDisk puts a finished disk into a layer.
func addDisk(t *testing.T, layer string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(layer, ".uni"), 0o755))
	must(t, os.WriteFile(filepath.Join(layer, unikernel.DiskFile), []byte("disk"), 0o444))
	must(t, os.WriteFile(filepath.Join(layer, unikernel.DiskInfoFile),
		[]byte(`{"version":1,"guest":"nanos","filesystem":"tfs","format":"qcow2","size":4}`), 0o444))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFinishedDisk(t *testing.T) {
	lowers, upper := snapshots(t, t.TempDir(), 1)
	for name, mounts := range map[string][]*types.Mount{
		"overlay":   overlay(lowers, upper),
		"view":      {{Type: "bind", Source: lowers[0], Options: []string{"ro", "rbind"}}},
		"copy":      {{Type: "bind", Source: lowers[0], Options: []string{"rw", "rbind"}}},
		"by client": nil,
	} {
		if fs, err := New(mounts, lowers[0]); err != nil || fs.Disk != nil {
			t.Errorf("%s without a disk: %+v, %v", name, fs.Disk, err)
		}
	}
	addDisk(t, lowers[0])
	for name, mounts := range map[string][]*types.Mount{
		"overlay":   overlay(lowers, upper),
		"view":      {{Type: "bind", Source: lowers[0], Options: []string{"ro", "rbind"}}},
		"copy":      {{Type: "bind", Source: lowers[0], Options: []string{"rw", "rbind"}}},
		"by client": nil,
	} {
		fs, err := New(mounts, lowers[0])
		if err != nil || fs.Disk == nil || fs.Disk.Guest != "nanos" || fs.Disk.Format != "qcow2" {
			t.Fatalf("%s: %+v, %v", name, fs.Disk, err)
		}
		f, err := fs.Disk.Open()
		must(t, err)
		if data, err := io.ReadAll(f); err != nil || string(data) != "disk" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		f.Close()
	}
}

func TestFinishedDiskAmongLayers(t *testing.T) {
	lowers, upper := snapshots(t, t.TempDir(), 2)
	addDisk(t, lowers[1])
	if _, err := New(overlay(lowers, upper), ""); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "layers beside") {
		t.Errorf("another layer: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(upper, "f"), nil, 0o600))
	if err := Untouched(overlay(lowers, upper[:0])); err != nil {
		t.Errorf("a view: %v", err)
	}
	if err := Untouched(overlay(lowers, upper)); !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), "container's layer") {
		t.Errorf("own layer: %v", err)
	}
	// A file in place of the directory hides it, as a whiteout would.
	must(t, os.WriteFile(filepath.Join(lowers[0], ".uni"), nil, 0o600))
	if fs, err := New(overlay(lowers, ""), ""); err != nil || fs.Disk != nil {
		t.Errorf("hidden: %+v, %v", fs.Disk, err)
	}
}

func TestFinishedDiskRefused(t *testing.T) {
	disk, info := unikernel.DiskFile, unikernel.DiskInfoFile
	for name, tt := range map[string]struct {
		spoil func(layer string) error
		want  error
	}{
		"truncated": {func(l string) error { return os.Truncate(filepath.Join(l, disk), 3) }, unikernel.ErrInvalid},
		"no disk":   {func(l string) error { return os.Remove(filepath.Join(l, disk)) }, unikernel.ErrInvalid},
		"no JSON":   {func(l string) error { return os.WriteFile(filepath.Join(l, info), nil, 0o600) }, unikernel.ErrInvalid},
		"newer": {func(l string) error {
			return os.WriteFile(filepath.Join(l, info), []byte(`{"version":9}`), 0o600)
		}, unikernel.ErrNotImplemented},
		"large": {func(l string) error { return os.Truncate(filepath.Join(l, info), unikernel.MaxDiskInfo+1) }, unikernel.ErrInvalid},
		"link": {func(l string) error {
			return errors.Join(os.Remove(filepath.Join(l, disk)), os.Symlink("/etc/passwd", filepath.Join(l, disk)))
		}, unikernel.ErrInvalid},
		"link of the JSON": {func(l string) error {
			return errors.Join(os.Remove(filepath.Join(l, info)), os.Symlink("disk.img", filepath.Join(l, info)))
		}, unikernel.ErrInvalid},
		"linked directory": {func(l string) error {
			return errors.Join(os.Rename(filepath.Join(l, ".uni"), filepath.Join(l, "x")), os.Symlink("x", filepath.Join(l, ".uni")))
		}, unikernel.ErrInvalid},
		"pipe": {func(l string) error {
			return errors.Join(os.Remove(filepath.Join(l, disk)), unix.Mkfifo(filepath.Join(l, disk), 0o600))
		}, unikernel.ErrInvalid},
		"directory": {func(l string) error {
			return errors.Join(os.Remove(filepath.Join(l, disk)), os.Mkdir(filepath.Join(l, disk), 0o700))
		}, unikernel.ErrInvalid},
	} {
		lowers, upper := snapshots(t, t.TempDir(), 1)
		addDisk(t, lowers[0])
		must(t, os.Chmod(filepath.Join(lowers[0], disk), 0o600))
		must(t, os.Chmod(filepath.Join(lowers[0], info), 0o600))
		must(t, tt.spoil(lowers[0]))
		if _, err := New(overlay(lowers, upper), ""); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHidden(t *testing.T) {
	lowers, upper := snapshots(t, t.TempDir(), 2)
	for name, tt := range map[string]struct {
		mounts []*types.Mount
		want   bool
	}{
		"by client":      {nil, false},
		"overlay":        {overlay(lowers, upper), false},
		"bind":           {[]*types.Mount{{Type: "bind", Source: lowers[0]}}, false},
		"a device":       {[]*types.Mount{{Type: "ext4", Source: "/dev/x"}}, true},
		"two mounts":     {append(overlay(lowers, upper), &types.Mount{Type: "bind", Source: upper}), true},
		"escaped names":  {overlay([]string{lowers[0] + `\:x`}, upper), true},
		"relative names": {overlay([]string{"1/fs"}, upper), true},
	} {
		if got := Hidden(tt.mounts); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// The layers of an ordinary image are looked at once each.
func BenchmarkFinished(b *testing.B) {
	var lowers []string
	for i := range 20 {
		lowers = append(lowers, filepath.Join(b.TempDir(), fmt.Sprint(i)))
		if err := os.Mkdir(lowers[i], 0o755); err != nil {
			b.Fatal(err)
		}
	}
	mounts := convert(overlay(lowers, ""))
	for b.Loop() {
		if disk, err := finished(mounts); disk != nil || err != nil {
			b.Fatal(err)
		}
	}
}

// Files that only show when they are mounted: two mounts, one in the other.
func TestMountToSee(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts; set UNI_QEMU_TESTS=1")
	}
	lowers, _ := snapshots(t, t.TempDir(), 2)
	must(t, os.Mkdir(filepath.Join(lowers[0], "etc"), 0o755))
	mounts := []*types.Mount{
		{Type: "bind", Source: lowers[0], Options: []string{"ro", "bind"}},
		{Type: "bind", Source: lowers[1], Target: "etc", Options: []string{"ro", "bind"}},
	}
	for _, finished := range []bool{false, true} {
		if finished {
			addDisk(t, lowers[0])
		}
		target := filepath.Join(t.TempDir(), "rootfs")
		fs, err := Mount(mounts, target)
		if err != nil || (fs.Disk != nil) != finished || fs.Key != "" {
			t.Fatalf("%+v, %v", fs, err)
		}
		dir, done, err := fs.Open(t.Context())
		if err != nil || dir != target {
			t.Fatalf("%s, %v", dir, err)
		}
		if finished {
			f, err := fs.Disk.Open()
			must(t, err)
			must(t, f.Close())
		}
		must(t, done())
		must(t, Unmount(target)) // once more: nothing is mounted
		if left, err := os.ReadDir(target); err != nil || len(left) > 0 {
			t.Errorf("still mounted: %v, %v", left, err)
		}
	}
	// What is wrong is found, and nothing stays mounted.
	must(t, os.Chmod(filepath.Join(lowers[0], unikernel.DiskFile), 0o600))
	must(t, os.Truncate(filepath.Join(lowers[0], unikernel.DiskFile), 3))
	target := filepath.Join(t.TempDir(), "rootfs")
	if _, err := Mount(mounts, target); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("truncated: %v", err)
	}
	if left, err := os.ReadDir(target); err != nil || len(left) > 0 {
		t.Errorf("still mounted: %v, %v", left, err)
	}
}

// TestFind: files are found as an overlay shows them, and nothing else is opened.
func TestFind(t *testing.T) {
	lowers, upper := snapshots(t, t.TempDir(), 3)
	at := func(layer int, name string) string { return filepath.Join(lowers[layer], name) }
	for layer := range lowers {
		must(t, os.MkdirAll(at(layer, "dir/sub"), 0o755))
	}
	for _, f := range []struct {
		layer      int
		name, text string
	}{{0, "top", "0"}, {2, "top", "2"}, {2, "bottom", "2"}, {2, "dir/deep", "2"}, {2, "dir/sub/deep", "2"}, {2, "gone", "2"}, {2, "file", "2"}, {2, "file2/x", "2"}} {
		must(t, os.MkdirAll(filepath.Dir(at(f.layer, f.name)), 0o755))
		must(t, os.WriteFile(at(f.layer, f.name), []byte(f.text), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(upper, "own"), nil, 0o600))
	must(t, os.WriteFile(at(1, "file2"), nil, 0o600))
	must(t, os.Symlink("top", at(0, "link")))
	must(t, os.Symlink("dir", at(0, "linked")))
	must(t, unix.Mkfifo(at(0, "pipe"), 0o600))
	mounts := overlay(lowers, upper)
	root := os.Geteuid() == 0
	if root {
		must(t, unix.Mknod(at(1, "gone"), unix.S_IFCHR, 0))
		must(t, unix.Setxattr(at(1, "dir/sub"), "trusted.overlay.opaque", []byte("y"), 0))
	}
	fs, err := New(mounts, "")
	must(t, err)
	for name, want := range map[string]string{"/top": "0", "bottom": "2", "/dir/deep": "2", "/dir/../bottom": "2", "/../bottom": "2"} {
		f, size, err := fs.Find(name)
		must(t, err)
		data := make([]byte, size)
		if _, err := f.ReadAt(data, 0); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		must(t, f.Close())
	}
	absent := []string{"/none", "/own", "/none/x", "/file2/x", "/file/x"}
	if root {
		absent = append(absent, "/gone", "/dir/sub/deep")
	}
	for _, name := range absent {
		if _, _, err := fs.Find(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"/link", "/linked/deep", "/pipe", "/dir"} {
		if _, _, err := fs.Find(name); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
