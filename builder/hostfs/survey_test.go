package hostfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/builder/hostfs/hostfstest"

	"golang.org/x/sys/unix"
)

// sample is a directory with a file, one with two names, a link, a hole and a
// pipe.
func sample(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	hole := filepath.Join(dir, "hole")
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub/f"), []byte("12345"), 0o644),
		os.Link(filepath.Join(dir, "sub/f"), filepath.Join(dir, "g")),
		os.Symlink(filepath.Join(dir, "absent"), filepath.Join(dir, "link")),
		os.WriteFile(hole, nil, 0o644), os.Truncate(hole, 1<<30),
		unix.Mkfifo(filepath.Join(dir, "sub/pipe"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func look(t *testing.T, path string, most int64) *Survey {
	t.Helper()
	s, err := Look(t.Context(), path, most)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLook(t *testing.T) {
	dir := sample(t)
	s := look(t, dir, 1<<40)
	if s.Bytes != 5 || s.Files != 7 || s.Partial || s.Special != 1 || len(s.Examples) != 1 || s.Examples[0] != "sub/pipe" {
		t.Errorf("%+v", s)
	}
	if f := look(t, filepath.Join(dir, "g"), 0); f.Bytes != 5 || f.Files != 1 {
		t.Errorf("a file: %+v", f)
	}
	if _, err := Look(t.Context(), dir+"x", 0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestKey: the key is there when nothing changed for a while, and another after
// any change.
func TestKey(t *testing.T) {
	dir := sample(t)
	later := time.Now().Add(time.Hour)
	first := look(t, dir, 1<<40)
	if first.honest == false {
		t.Skip("the file system of ", dir, " is none that tells of changes")
	}
	seen := map[string]string{first.Key(later): "at first"}
	if first.Key(time.Now()) != "" {
		t.Error("a tree that was made just now has a key")
	}
	if again := look(t, dir, 1<<40); again.Key(later) != first.Key(later) {
		t.Error("the same tree has another key")
	}
	for _, change := range []struct {
		what string
		do   func() error
	}{
		{"same size", func() error { return os.WriteFile(filepath.Join(dir, "g"), []byte("54321"), 0o644) }},
		{"mode", func() error { return os.Chmod(filepath.Join(dir, "g"), 0o600) }},
		{"time set back", func() error { return os.Chtimes(filepath.Join(dir, "g"), time.Unix(1, 0), time.Unix(1, 0)) }},
		{"rename", func() error { return os.Rename(filepath.Join(dir, "g"), filepath.Join(dir, "h")) }},
		{"removal", func() error { return os.Remove(filepath.Join(dir, "h")) }},
		{"empty directory", func() error { return os.Mkdir(filepath.Join(dir, "e"), 0o755) }},
		{"attribute", func() error { return unix.Setxattr(filepath.Join(dir, "e"), "user.a", []byte("b"), 0) }},
	} {
		if err := change.do(); err != nil {
			t.Fatalf("%s: %v", change.what, err)
		}
		key := look(t, dir, 1<<40).Key(later)
		if before, twice := seen[key]; twice || key == "" {
			t.Errorf("%s: key %q as %s", change.what, key, before)
		}
		seen[key] = change.what
	}
}

// TestMappedWrite: a program that writes by a mapping is noticed after Settle.
func TestMappedWrite(t *testing.T) {
	dir := sample(t)
	later := time.Now().Add(time.Hour)
	if look(t, dir, 1).Key(later) == "" {
		t.Skip("the file system of ", dir, " is none that tells of changes")
	}
	f, err := os.OpenFile(filepath.Join(dir, "g"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mapped, err := unix.Mmap(int(f.Fd()), 0, 5, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	mapped[0] = 'a' // from now on the page can be written without the kernel
	if err := Settle(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	before := look(t, dir, 1)
	// The file system's clock goes in steps: until the time can be another.
	for old := before.newest; !time.Now().After(old.Add(50 * time.Millisecond)); {
		time.Sleep(10 * time.Millisecond)
	}
	mapped[0] = 'b'
	if look(t, dir, 1).Key(later) == before.Key(later) {
		t.Error("the tree has the same key with other contents")
	}
}

// TestKeyOfMemory: tmpfs gives mapped files no new times.
func TestKeyOfMemory(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skip("/dev/shm is no tmpfs")
	}
	dir, err := os.MkdirTemp("/dev/shm", "uni-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(dir)
	if key := look(t, dir, 1).Key(time.Now().Add(time.Hour)); key != "" {
		t.Errorf("key %q", key)
	}
}

func TestViewWithoutMounts(t *testing.T) {
	dir := sample(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, recursive := range []bool{true, false} {
		path, done, err := View(link, recursive)
		if err != nil || path != dir {
			t.Errorf("%v: %q, %v", recursive, path, err)
			continue
		}
		if err := done(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := View(link+"x", true); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestLongPaths: what lies deeper than the kernel takes paths is seen as everything.
func TestLongPaths(t *testing.T) {
	dir := sample(t)
	path, fd := hostfstest.Deep(t, dir, 100)
	if err := Settle(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	before := look(t, dir, 1<<40)
	if before.Bytes != 9 || before.Files != 108 {
		t.Errorf("%+v", before)
	}
	f, err := Open(path + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 10)
	if n, err := f.Read(data); err != nil || string(data[:n]) != "deep" {
		t.Errorf("%q, %v", data[:n], err)
	}
	if err := errors.Join(os.Remove(fd+"/f"), unix.Mkfifo(fd+"/g", 0o600)); err != nil {
		t.Fatal(err)
	}
	after := look(t, dir, 1<<40)
	if after.Digest() == before.Digest() || len(after.Examples) != 2 || !strings.HasSuffix(path+"/g", after.Examples[0]) || len(after.Examples[0]) < unix.PathMax {
		t.Errorf("after a change: %.200q", after.Examples)
	}
	if err := os.Symlink("/", fd+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path + "/link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
	if _, err := Open(path + "/nosuch"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(dir, "sub/f"), filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if look(t, dir, 1<<40).Digest() == after.Digest() {
		t.Error("the directory that a file is in makes no difference")
	}
}

// TestTooDeep: directories that nest without end are an error.
func TestTooDeep(t *testing.T) {
	dir := t.TempDir()
	hostfstest.Deep(t, dir, maxDepth+1)
	if _, err := Look(t.Context(), dir, 1<<40); !errors.Is(err, ErrTooDeep) {
		t.Errorf("look: %v", err)
	}
	if err := Settle(t.Context(), dir); !errors.Is(err, ErrTooDeep) {
		t.Errorf("settle: %v", err)
	}
}
