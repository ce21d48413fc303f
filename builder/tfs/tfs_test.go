package tfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// testDisk has a boot image and a kernel that are none.
var testDisk = Disk{
	Boot:   append(append(make([]byte, 510), 0x55, 0xaa), bytes.Repeat([]byte("boot"), 1000)...),
	Kernel: append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 10000)...),
	Label:  "root",
}

var someTime = time.Date(2001, 2, 3, 4, 5, 6, 500_000_000, time.UTC)

// makeTree makes a tree of all that can be stored. The order of creation is
// reversed by reverse, which must not show in an image.
func makeTree(t testing.TB, reverse bool) string {
	t.Helper()
	dir := t.TempDir()
	sizes := map[string]int{"a/f": 3, "!first": 1, "-": 2, "empty": 0, "sector": 512, "page": 4096, "page+1": 4097,
		"dir/big": 3<<20 + 5, "new\nline": 7, "not\xff\xfeutf8": 9, strings.Repeat("n", 255): 11,
		"dir/sub/deep/er": 100, "etc/hosts": 20, "123": 5, "children": 6, "extents": 0}
	for i := range 1000 { // several records of one directory
		sizes[fmt.Sprintf("many/%s%04d", strings.Repeat("x", i%50), i)] = i % 7
	}
	names := slices.Sorted(maps.Keys(sizes))
	if reverse {
		slices.Reverse(names)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		data := bytes.Repeat([]byte(name), sizes[name]/len(name)+1)[:sizes[name]]
		must(t, os.WriteFile(path, data, 0o644))
		must(t, os.Chtimes(path, someTime, someTime))
	}
	for name, target := range map[string]string{"rel": "dir/big", "abs": "/etc/hosts", "dangling": "../../nowhere", "loop": "loop",
		"etc/up": "../dir/../a"} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	must(t, os.Link(filepath.Join(dir, "a/f"), filepath.Join(dir, "dir/hard")))
	must(t, os.Mkdir(filepath.Join(dir, "nothing"), 0o755))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	for _, name := range []string{"dev/null", "proc/self/exe", "sys/x"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644))
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, sparse.Truncate(80<<20+3))
	for _, at := range []int64{1 << 20, 40<<20 + 100} {
		_, err := sparse.WriteAt([]byte("data"), at)
		must(t, err)
	}
	must(t, sparse.Close())
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		ts := unix.NsecToTimespec(someTime.UnixNano())
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func writeDisk(t testing.TB, dir string) *os.File {
	t.Helper()
	f := create(t)
	must(t, testDisk.WriteDir(t.Context(), f, dir))
	return f
}

func open(t testing.TB, f *os.File) *Image {
	t.Helper()
	st, err := f.Stat()
	must(t, err)
	m, err := Open(f, st.Size())
	must(t, err)
	return m
}

func read(t testing.TB, f File) []byte {
	t.Helper()
	r, err := f.Reader()
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, err)
	return data
}

func TestRoundTrip(t *testing.T) {
	dir := makeTree(t, false)
	m := open(t, writeDisk(t, dir))
	if m.Root.Label != "root" || m.Root.UUID != defaultUUID {
		t.Errorf("label %q, UUID %x", m.Root.Label, m.Root.UUID)
	}
	compare(t, m.Root.Top(), dir, "")
	for _, name := range []string{"dev", "proc", "sys"} {
		f, err := m.Root.Lookup(name)
		if err != nil || !f.IsDir() || len(f.Names()) > 0 {
			t.Errorf("%s: %v, %v", name, f.Names(), err)
		}
	}
	a, errA := m.Root.Lookup("/a/f")
	b, errB := m.Root.Lookup("dir/hard")
	if errA != nil || errB != nil || !a.Same(b) {
		t.Errorf("hard link: %v, %v, the same: %t", errA, errB, a.Same(b))
	}
	boot, err := m.Boot()
	must(t, err)
	k, err := boot.Lookup("kernel")
	must(t, err)
	if !bytes.Equal(read(t, k), testDisk.Kernel) {
		t.Error("the kernel is another one")
	}
}

// compare checks a directory and all below it against the host's.
func compare(t *testing.T, f File, dir, at string) {
	t.Helper()
	var want []string
	list, err := os.ReadDir(filepath.Join(dir, at))
	must(t, err)
	for _, e := range list {
		if e.Type()&(fs.ModeNamedPipe|fs.ModeDevice|fs.ModeSocket) == 0 {
			want = append(want, e.Name())
		}
	}
	slices.Sort(want)
	if got := f.Names(); !slices.Equal(got, want) {
		t.Fatalf("%q holds %q, want %q", at, got, want)
	}
	for _, name := range want {
		path := filepath.Join(at, name)
		if at == "" && kernelDirs[name] {
			continue
		}
		kid, _ := f.Child(name)
		st, err := os.Lstat(filepath.Join(dir, path))
		must(t, err)
		if sec, nsec := kid.Mtime(); sec != st.ModTime().Unix() || nsec != int64(st.ModTime().Nanosecond()) {
			t.Errorf("%s: time %d.%09d, want %v", path, sec, nsec, st.ModTime())
		}
		switch {
		case st.IsDir():
			compare(t, kid, dir, path)
		case st.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(filepath.Join(dir, path))
			if got, ok := kid.Target(); !ok || got != target {
				t.Errorf("%s leads to %q, want %q", path, got, target)
			}
		default:
			data, err := os.ReadFile(filepath.Join(dir, path))
			must(t, err)
			if !kid.IsRegular() || kid.Size() != st.Size() || !bytes.Equal(read(t, kid), data) {
				t.Errorf("%s: other contents", path)
			}
		}
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	a, err := os.ReadFile(writeDisk(t, makeTree(t, false)).Name())
	must(t, err)
	b, err := os.ReadFile(writeDisk(t, makeTree(t, true)).Name())
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Error("the order in which files were made shows in the disk")
	}
}

// goldenSum is of a disk that was booted. A change of it needs another format
// in the cache's keys.
const goldenSum = "135e5cc03dd8d6d4941be2fbc0b3c929f906063ea78a8c71d967b0c1f438ecd0"

func TestGolden(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "bin/hello"), bytes.Repeat([]byte("hello"), 5000), 0o755))
	must(t, os.Symlink("hello", filepath.Join(dir, "bin/hi")))
	for _, name := range []string{"bin/hello", "bin/hi", "bin", "."} {
		ts := unix.NsecToTimespec(someTime.UnixNano())
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	data, err := os.ReadFile(writeDisk(t, dir).Name())
	must(t, err)
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != goldenSum {
		t.Errorf("SHA-256 of the disk is %s, want %s", got, goldenSum)
	}
}

func TestHolesStayHoles(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(1<<30))
	_, err = f.WriteAt([]byte("end"), 1<<30-3)
	must(t, errors.Join(err, f.Close()))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Skip("the temporary directory's file system has no holes")
	}
	m := open(t, writeDisk(t, dir))
	if m.Root.size > 2<<20 {
		t.Errorf("the file system has %d bytes", m.Root.size)
	}
}

func TestLookup(t *testing.T) {
	m := open(t, writeDisk(t, makeTree(t, false)))
	for _, tt := range []struct {
		path, same string
		err        error
	}{
		{"/", "", nil}, {"..", "", nil}, {"rel", "dir/big", nil}, {"/abs", "etc/hosts", nil},
		{"etc/up/f", "a/f", nil}, {"./dir//sub/../hard", "a/f", nil},
		{"dangling", "", fs.ErrNotExist}, {"no", "", fs.ErrNotExist}, {"loop", "", unix.ELOOP}, {"a/f/x", "", unix.ENOTDIR},
		{"a/f/", "a/f", nil},
	} {
		got, err := m.Root.Lookup(tt.path)
		if !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", tt.path, err, tt.err)
			continue
		}
		if want, _ := m.Root.Lookup(tt.same); err == nil && !got.Same(want) {
			t.Errorf("%s is not %s", tt.path, tt.same)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, d := range map[string]Disk{
		"no boot sector": {Boot: make([]byte, 512), Kernel: testDisk.Kernel},
		"short boot":     {Boot: []byte{0x55, 0xaa}, Kernel: testDisk.Kernel},
		"large boot":     {Boot: append(slices.Clone(testDisk.Boot), make([]byte, 1<<20)...), Kernel: testDisk.Kernel},
		"no ELF":         {Boot: testDisk.Boot, Kernel: []byte("#!/bin/sh")},
		"large kernel":   {Boot: testDisk.Boot, Kernel: append(slices.Clone(testDisk.Kernel), make([]byte, bootSize)...)},
		"long label":     {Boot: testDisk.Boot, Kernel: testDisk.Kernel, Label: strings.Repeat("l", 32)},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		must(t, err)
		if err := d.WriteDir(t.Context(), f, dir); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}

func TestFileThatChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for name, change := range map[string]func() error{
		"longer":  func() error { return os.WriteFile(path, []byte("abcde"), 0o644) },
		"shorter": func() error { return os.Truncate(path, 1) },
		"gone":    func() error { return os.Remove(path) },
		"a link":  func() error { return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)) },
	} {
		_ = os.Remove(path) // what the last one left
		must(t, os.WriteFile(path, []byte("abc"), 0o644))
		root, err := tree.Scan(t.Context(), dir)
		must(t, err)
		must(t, change())
		err = testDisk.Write(t.Context(), create(t), root)
		if !errors.Is(err, tree.ErrChanged) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ELOOP) {
			t.Errorf("a file that is %s: %v", name, err)
		}
	}
}
