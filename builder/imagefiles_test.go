package builder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/unikernel"
)

// copiesIn names the copies in a container's directory.
func copiesIn(dir string) unikernel.ImageFiles {
	return unikernel.ImageFiles{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Disk: filepath.Join(dir, "disk.raw")}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %d bytes, %v, want %d", path, len(got), err, len(want))
	}
}

func TestImageFiles(t *testing.T) {
	s, containerDir := openStore(t, Options{MaxSize: 1 << 30})
	root := newFakeRoot(t, map[string]string{"boot/k-1": "kernel", "i": "initrd", "d": "disk"})
	if err := os.Symlink("/boot/k-1", filepath.Join(root.dir, "boot/k")); err != nil {
		t.Fatal(err)
	}
	in := unikernel.ImageFiles{Kernel: "/boot/k", Initrd: "/i", Disk: "/d"}
	for _, key := range []string{"one", "one", ""} {
		out := copiesIn(containerDir("c" + key + t.Name()))
		if err := s.ImageFiles(t.Context(), root.rootfs(key), in, out); err != nil {
			t.Fatal(err)
		}
		wantFile(t, out.Kernel, "kernel")
		wantFile(t, out.Initrd, "initrd")
		wantFile(t, out.Disk, "disk")
		for _, path := range []string{out.Kernel, out.Initrd, out.Disk} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if root.opened != 2 || root.closed != 2 { // once for the key, once without
		t.Errorf("the root was opened %d times and closed %d times", root.opened, root.closed)
	}
	entries, err := s.Entries()
	if err != nil || len(entries) != 3 || entries[0].Kind != "file" || entries[0].Users != 0 {
		t.Errorf("cache: %+v, %v", entries, err)
	}
}

// TestImageFilesStayInside: no path of an image leads out of it, and nothing but
// regular files is opened.
func TestImageFilesStayInside(t *testing.T) {
	s, containerDir := openStore(t, Options{})
	root := newFakeRoot(t, map[string]string{"k": "kernel", "dir/x": "x"})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"absolute": secret, "relative": "../../../../../../../.." + secret, "outside": filepath.Dir(secret), "loop": "loop", "self": "/proc/self/exe",
	} {
		if err := os.Symlink(target, filepath.Join(root.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root.dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	huge, err := os.Create(filepath.Join(root.dir, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	defer huge.Close()
	if err := huge.Truncate(maxKernel + 1); err != nil {
		t.Fatal(err)
	}
	dir := containerDir("c")
	for path, want := range map[string]string{
		"/absolute": "no such file", "/relative": "no such file", "/outside/secret": "no such file", "/loop": "symbolic links", "/self": "no such file",
		"/../../../../../../../.." + secret: "no such file", "/missing": "no such file", "/k/x": "not a directory",
		"/dir": "no regular file", "/pipe": "no regular file", "/huge": "at most",
	} {
		err := s.ImageFiles(t.Context(), root.rootfs(""), unikernel.ImageFiles{Initrd: "/dir/x", Kernel: path}, copiesIn(dir))
		if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestImageFilesAllOrNothing: a file that fails takes those before it along.
func TestImageFilesAllOrNothing(t *testing.T) {
	s, containerDir := openStore(t, Options{MaxSize: 1 << 30})
	root := newFakeRoot(t, map[string]string{"k": "kernel"})
	dir := containerDir("c")
	for _, key := range []string{"", "key"} {
		if err := s.ImageFiles(t.Context(), root.rootfs(key), unikernel.ImageFiles{Kernel: "/k", Disk: "/d"}, copiesIn(dir)); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("got %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	root.closeErr = os.ErrPermission
	if err := s.ImageFiles(t.Context(), root.rootfs(""), unikernel.ImageFiles{Kernel: "/k"}, copiesIn(dir)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("closing fails: %v", err)
	}
	root.openErr = os.ErrClosed
	if err := s.ImageFiles(t.Context(), root.rootfs(""), unikernel.ImageFiles{Kernel: "/k"}, copiesIn(dir)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("opening fails: %v", err)
	}
}

// qcow2File writes a qcow2 image of a disk to name in the root.
func qcow2File(t *testing.T, root *fakeRoot, name, disk string) {
	t.Helper()
	f, err := os.Create(filepath.Join(root.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Convert(t.Context(), f, strings.NewReader(disk), int64(len(disk))); err != nil {
		t.Fatal(err)
	}
}

func TestImageDisk(t *testing.T) {
	s, containerDir := openStore(t, Options{})
	root := newFakeRoot(t, map[string]string{"k": "kernel"})
	disk := strings.Repeat("\x00", 3<<20) + "data" + strings.Repeat("\x00", 1<<20-4) + strings.Repeat("end.", 128)
	qcow2File(t, root, "d.qcow2", disk)
	if err := os.WriteFile(filepath.Join(root.dir, "d.raw"), []byte(disk), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d.qcow2", "d.raw"} {
		out := copiesIn(containerDir(name))
		if err := s.ImageFiles(t.Context(), root.rootfs(""), unikernel.ImageFiles{Kernel: "/k", Disk: "/" + name}, out); err != nil {
			t.Fatal(err)
		}
		wantFile(t, out.Disk, disk)
		layer := filepath.Join(filepath.Dir(out.Disk), "layer.qcow2")
		if err := s.DiskLayer(out.Disk, layer); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(layer); err != nil || !bytes.Contains(data[:4096], []byte("disk.raw")) {
			t.Errorf("layer of %d bytes, %v", len(data), err)
		}
	}
}

// TestImageDiskRefuses: an image that names another file gives nobody that
// file's contents.
func TestImageDiskRefuses(t *testing.T) {
	s, containerDir := openStore(t, Options{})
	root := newFakeRoot(t, map[string]string{"k": "kernel"})
	disk := strings.Repeat("data", 1<<20)
	change := func(name string, at int, bytes ...byte) {
		t.Helper()
		qcow2File(t, root, name, disk)
		f, err := os.OpenFile(filepath.Join(root.dir, name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(bytes, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	backing, err := os.Create(filepath.Join(root.dir, "backing"))
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	if err := (qcow2.Overlay{Size: 1 << 20, Backing: "/etc/shadow", BackingFormat: "raw"}).Write(backing); err != nil {
		t.Fatal(err)
	}
	change("external", 79, 1<<2)   // incompatible features
	change("compressed", 79, 1<<3) // another compression than deflate
	change("encrypted", 35, 1)
	change("version 2", 7, 2)
	qcow2File(t, root, "bomb", strings.Repeat("data", 16<<10))
	grow(t, filepath.Join(root.dir, "bomb"))

	dir := containerDir("c")
	for name, want := range map[string]string{
		"backing": "backing file", "external": "in another file", "compressed": "features unknown", "encrypted": "encrypted",
		"version 2": "want version 3", "bomb": "more data than its file",
	} {
		err := s.ImageFiles(t.Context(), root.rootfs(""), unikernel.ImageFiles{Kernel: "/k", Disk: "/" + name}, copiesIn(dir))
		if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "qemu-img convert") {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left: %v, %v", name, left, err)
		}
	}
}

// grow makes a qcow2 image of one cluster claim that 64 MiB of its disk are that
// cluster.
func grow(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const cluster = 64 << 10
	copy(data[24:], []byte{0, 0, 0, 0, 4, 0, 0, 0}) // the disk's size
	table := data[len(data)-2*cluster : len(data)-cluster]
	for at := 8; at < 1024*8; at += 8 {
		copy(table[at:], table[:8])
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
