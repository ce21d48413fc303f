package builder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

// finishedDisk is a root that is the disk in a file, which belongs to a
// snapshot: readable by all, writable by nobody.
func finishedDisk(t testing.TB, path, format string) unikernel.Rootfs {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	filesystem, guest := "erofs", "linux"
	if strings.Contains(path, "tfs") {
		filesystem, guest = "tfs", "nanos"
	}
	info := unikernel.DiskInfo{Version: 1, Guest: guest, Filesystem: filesystem, Format: format, Size: st.Size()}
	return unikernel.Rootfs{Disk: &unikernel.FinishedDisk{DiskInfo: info, Open: func() (*os.File, error) { return os.Open(path) }}}
}

// erofsDisk is a disk of a few files, raw and as qcow2.
func erofsDisk(t *testing.T) (raw, packed string) {
	t.Helper()
	s, containerDir := openStore(t, Options{MaxSize: 1 << 30})
	made := filepath.Join(containerDir("c"), "root.erofs")
	if err := s.Root(t.Context(), newFakeRoot(t, map[string]string{"bin/x": "hello"}).rootfs(""), made); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	raw, packed = filepath.Join(t.TempDir(), "erofs"), filepath.Join(t.TempDir(), "erofs.qcow2")
	writeFile(t, raw, data)
	writeFile(t, packed, nil)
	convert(t, raw, packed)
	return raw, packed
}

func convert(t *testing.T, raw, packed string) {
	t.Helper()
	in, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(qcow2.Convert(t.Context(), out, in, st.Size()), out.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFinishedDiskIsNotConverted(t *testing.T) {
	s, containerDir := openStore(t, Options{MaxSize: 1 << 30})
	raw, packed := erofsDisk(t)
	for format, path := range map[string]string{"raw": raw, "qcow2": packed} {
		dst := filepath.Join(containerDir(format), "root")
		root := finishedDisk(t, path, format)
		before := inode(t, path)
		if err := s.Root(t.Context(), root, dst); err != nil {
			t.Fatal(err)
		}
		after := inode(t, dst)
		// The disk of a snapshot belongs to root, and so is linked, when it is
		// root that runs this.
		if linked := os.SameFile(before, after); linked != (os.Geteuid() == 0) {
			t.Errorf("%s: linked: %v", format, linked)
		}
		if now := inode(t, path); now.Mode() != before.Mode() || !now.ModTime().Equal(before.ModTime()) {
			t.Errorf("%s: the snapshot's file has changed", format)
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another disk, %v", format, err)
		}
	}
	if files := cacheFiles(t, s); len(files) > 0 {
		t.Errorf("in the cache: %v", files)
	}
}

// A file with another mode cannot be shared with QEMU's user, and so is copied:
// once, if it is known what it is.
func TestFinishedDiskIsCopied(t *testing.T) {
	s, containerDir := openStore(t, Options{MaxSize: 1 << 30})
	raw, _ := erofsDisk(t)
	root := finishedDisk(t, raw, "raw")
	if err := os.Chmod(raw, 0o600); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(containerDir("private"), "root")
	if err := s.Root(t.Context(), root, private); err != nil {
		t.Fatal(err)
	}
	root.Key = "key"
	first, second := filepath.Join(containerDir("a"), "root"), filepath.Join(containerDir("b"), "root")
	for _, dst := range []string{first, second} {
		if err := s.Root(t.Context(), root, dst); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := s.Entries()
	if err != nil || len(entries) != 1 || entries[0].Kind != "copy" || entries[0].Users != 2 || !os.SameFile(inode(t, first), inode(t, second)) {
		t.Errorf("%+v, %v", entries, err)
	}
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{private, first} {
		if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, want) || os.SameFile(inode(t, raw), inode(t, dst)) {
			t.Errorf("%s: another disk or no copy, %v", dst, err)
		}
	}
	for _, dir := range []string{"a", "b"} {
		if err := os.RemoveAll(containerDir(dir)); err != nil {
			t.Fatal(err)
		}
	}
	if freed, err := s.Prune(0); err != nil || freed.Files != 1 {
		t.Errorf("pruned %+v, %v", freed, err)
	}
}

// BenchmarkFinishedDisk measures the root of a container whose image is a disk,
// to be compared with BenchmarkRoot.
func BenchmarkFinishedDisk(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(dir, Options{MaxSize: large})
	if err != nil {
		b.Fatal(err)
	}
	made, dst := filepath.Join(dir, "made"), filepath.Join(dir, "root.erofs")
	writeFile(b, filepath.Join(dir, "files/f"), []byte("x"))
	if err := s.Root(b.Context(), unikernel.Rootfs{Open: rootAt(filepath.Join(dir, "files")).Open}, made); err != nil {
		b.Fatal(err)
	}
	root := finishedDisk(b, made, "raw")
	for b.Loop() {
		if err := s.Root(b.Context(), root, dst); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(dst); err != nil {
			b.Fatal(err)
		}
	}
}

func TestFinishedDiskWithHoles(t *testing.T) {
	in, err := os.Create(filepath.Join(t.TempDir(), "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	const size = 8<<20 + 1
	for _, at := range []int64{0, 5 << 20} {
		if _, err := in.WriteAt([]byte("data"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Truncate(size); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := copyData(t.Context(), out, in, size); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(in.Name())
	if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another copy, %v", err)
	}
}

func TestFinishedDiskRefused(t *testing.T) {
	s, containerDir := openStore(t, Options{MaxSize: 1 << 30})
	raw, packed := erofsDisk(t)
	data, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	qcow, err := os.ReadFile(packed)
	if err != nil {
		t.Fatal(err)
	}
	backed := bytes.Clone(qcow)
	backed[15] = 200 // the offset of a backing file's name
	external := bytes.Clone(qcow)
	external[79] = 4 // the feature of an external data file
	for name, tt := range map[string]struct {
		data   []byte
		format string
		fs     string
		want   string
	}{
		"cut off":                {data[:len(data)-4096], "raw", "erofs", "damaged"},
		"no file system":         {make([]byte, len(data)), "raw", "erofs", "damaged"},
		"qcow2 said to be raw":   {qcow, "raw", "erofs", "damaged"},
		"raw said to be qcow2":   {data, "qcow2", "erofs", "damaged"},
		"qcow2 with a backing":   {backed, "qcow2", "erofs", "backing file"},
		"qcow2 with a data file": {external, "qcow2", "erofs", "in another file"},
		"another file system":    {data, "raw", "ext4", "ext4, not erofs"},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		writeFile(t, path, tt.data)
		root := finishedDisk(t, path, tt.format)
		root.Disk.Filesystem = tt.fs
		dst := filepath.Join(containerDir("c"), "root")
		if err := s.Root(t.Context(), root, dst); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if exists(t, dst) {
			t.Errorf("%s: a disk was left", name)
		}
	}
}

func TestFinishedBootDisk(t *testing.T) {
	s, base, _ := bootStore(t)
	files := t.TempDir()
	writeFile(t, filepath.Join(files, "bin/x"), []byte(elfProgram))
	kernel := fakeKernel(t)
	made := filepath.Join(filepath.Dir(base), "made")
	if err := s.BootDisk(t.Context(), rootAt(files), kernel, made); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	raw, packed := filepath.Join(t.TempDir(), "tfs"), filepath.Join(t.TempDir(), "tfs.qcow2")
	writeFile(t, raw, data)
	convert(t, raw, packed)
	entries := len(cacheFiles(t, s))
	for format, path := range map[string]string{"raw": raw, "qcow2": packed} {
		dir := filepath.Join(filepath.Dir(filepath.Dir(base)), format)
		disk := unikernel.Disk{Path: filepath.Join(dir, "boot.tfs"), Format: format}
		layer := filepath.Join(dir, "boot.qcow2")
		if err := os.Mkdir(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := s.BootDisk(t.Context(), finishedDisk(t, path, format), kernel, disk.Path); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Configure(t.Context(), disk, layer, 1<<30, unikernel.BootConfig{Args: []string{"/bin/x"}, Cwd: "/"}); err != nil {
			t.Fatal(err)
		}
		head, err := os.ReadFile(layer)
		if err != nil || !bytes.Contains(head[:1024], []byte(format)) {
			t.Errorf("%s: the layer does not say how its base is stored, %v", format, err)
		}
		if record, err := s.Record(layer); err != nil || !bytes.Equal(record, make([]byte, tfs.LogSize)) {
			t.Errorf("%s: record: %v", format, err)
		}
	}
	if now := len(cacheFiles(t, s)); now != entries {
		t.Errorf("%d files in the cache, %d before", now, entries)
	}
	writeFile(t, kernel.Kernel, []byte("\x7fELF another"))
	dst := filepath.Join(filepath.Dir(base), "other")
	err = s.BootDisk(t.Context(), finishedDisk(t, raw, "raw"), kernel, dst)
	if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "uni build --guest nanos") || exists(t, dst) {
		t.Errorf("another kernel: %v", err)
	}
}
