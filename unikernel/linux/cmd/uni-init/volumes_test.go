package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// configMap are the files of a volume as the kubelet makes it.
func configMap(version string, keys ...string) []wire.VolumeFile {
	own := func(path string, mode uint32, data string) wire.VolumeFile {
		return wire.VolumeFile{Path: path, Mode: mode, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Data: data}
	}
	dir := "..2026_" + version
	files := []wire.VolumeFile{own(".", unix.S_IFDIR|0o2777, ""), own(dir, unix.S_IFDIR|0o755, "")}
	for _, k := range keys {
		files = append(files, own(dir+"/"+k, unix.S_IFREG|0o440, k+" "+version))
	}
	files = append(files, own("..data", unix.S_IFLNK|0o777, dir))
	for _, k := range keys {
		files = append(files, own(k, unix.S_IFLNK|0o777, "..data/"+k))
	}
	return files
}

// TestFillVolume: a volume is what it was last told to be, and changes as the
// kubelet changes it.
func TestFillVolume(t *testing.T) {
	dir := t.TempDir()
	for _, files := range [][]wire.VolumeFile{configMap("1", "a", "b"), configMap("2", "b", "c"), configMap("2", "b", "c")} {
		if err := fillVolume(dir, files); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, f := range files {
			want = append(want, f.Path)
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, f.Path), &st); err != nil || st.Mode != f.Mode {
				t.Errorf("%s: mode %o, %v; want %o", f.Path, st.Mode, err, f.Mode)
			}
			if f.Mode&unix.S_IFMT == unix.S_IFREG {
				if b, err := os.ReadFile(filepath.Join(dir, f.Path)); string(b) != f.Data {
					t.Errorf("%s holds %q, %v", f.Path, b, err)
				}
			}
		}
		var got []string
		filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			rel, _ := filepath.Rel(dir, path)
			got = append(got, rel)
			return err
		})
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("it holds %q, want %q", got, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "c")); string(b) != "c 2" {
		t.Errorf("by the link: %q, %v", b, err)
	}
}

// TestVolumeEvents: who watches the volume sees the link renamed, and nothing of a
// volume that did not change.
func TestVolumeEvents(t *testing.T) {
	dir := t.TempDir()
	if err := fillVolume(dir, configMap("1", "a")); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_ALL_EVENTS&^(unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	if err := fillVolume(dir, configMap("1", "a")); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(fd, buf); err != unix.EAGAIN {
		t.Errorf("%d bytes of events of a volume that did not change, %v", n, err)
	}
	if err := fillVolume(dir, configMap("2", "a")); err != nil {
		t.Fatal(err)
	}
	n, _ := unix.Read(fd, buf)
	if events := string(buf[:max(n, 0)]); !strings.Contains(events, "..data\x00") || !strings.Contains(events, "..data_tmp\x00") {
		t.Errorf("events %q", events)
	}
}

// TestWriteInPlace: a file that a container has mounted stays the same file.
func TestWriteInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	var inode uint64
	for i, data := range []string{"127.0.0.1 localhost\n", "x", "", "127.0.0.1 localhost\n"} {
		if err := writeInPlace(path, data); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || i > 0 && st.Ino != inode {
			t.Errorf("another file: %v", err)
		}
		inode = st.Ino
		if b, err := os.ReadFile(path); string(b) != data {
			t.Errorf("%q, %v; want %q", b, err, data)
		}
	}
}

// TestMemoryDirectories: what containers put there stays, and leads nowhere.
func TestMemoryDirectories(t *testing.T) {
	top, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	dir := func(path string) wire.VolumeFile {
		return wire.VolumeFile{Path: path, Mode: unix.S_IFDIR | 0o2775, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	}
	for range 2 {
		if err := makeDirectories(top, []wire.VolumeFile{dir("."), dir("a"), dir("a/b")}); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(top, "a/b")); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o775 {
			t.Errorf("%v, %v", info, err)
		}
		if err := os.WriteFile(filepath.Join(top, "a/b/kept"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := makeDirectories(top, []wire.VolumeFile{dir("link/x")}); err == nil {
		t.Error("a directory was made by a link")
	}
	if _, err := os.Stat(filepath.Join(outside, "x")); err == nil {
		t.Error("a directory was made outside")
	}
}

// TestVolumeNames: a volume is in the directory of the volumes.
func TestVolumeNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "../etc", "a/b", ".x"} {
		if err := new(volumes).set(&wire.Volume{Name: name}); replyOf(err).Code != wire.CodeInvalid {
			t.Errorf("%q: %v", name, err)
		}
	}
}
