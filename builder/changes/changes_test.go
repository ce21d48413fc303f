package changes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/builder/ext4"
	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/hostfs/hostfstest"

	"golang.org/x/sys/unix"
)

// image makes a disk of the files in a tree whose directory upper there is.
func image(t *testing.T, tree string) *os.File {
	t.Helper()
	mke2fs, err := exec.LookPath("/sbin/mke2fs")
	if err != nil {
		t.Skip("mke2fs is not installed")
	}
	path := filepath.Join(t.TempDir(), "layer.ext4")
	must(t, os.WriteFile(path, nil, 0o600), os.Truncate(path, 64<<20))
	cmd := exec.CommandContext(t.Context(), mke2fs, "-F", "-q", "-b", "4096", "-I", "256", "-i", "4096",
		"-O", "none,filetype,sparse_super,large_file,huge_file,flex_bg,extra_isize,dir_index,dir_nlink,ext_attr,extent,uninit_bg,has_journal",
		"-E", "lazy_itable_init=1,lazy_journal_init=1", "-d", tree, path)
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// fill makes files of every kind.
func fill(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("devices and owners want root")
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("a/b/c"), 0o755), os.WriteFile(at("a/small"), []byte("small"), 0o640))
	must(t, os.WriteFile(at("a/large"), bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0o600))
	must(t, os.WriteFile(at("empty"), nil, 0o604), os.Chown(at("empty"), 100000, 70000))
	must(t, os.WriteFile(at("sparse"), []byte("begin"), 0o600), os.Truncate(at("sparse"), 9<<20))
	must(t, os.Symlink("small", at("a/short")), os.Symlink("/"+strings.Repeat("x/", 200), at("a/long")), os.Lchown(at("a/short"), 7, 8))
	must(t, os.Link(at("a/small"), at("a/b/other name")), os.Chmod(at("a/large"), 0o4755|os.ModeSetuid))
	must(t, unix.Mkfifo(at("pipe"), 0o622), unix.Mknod(at("gone"), unix.S_IFCHR, 0), unix.Mknod(at("dev"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o700, 0), os.Chmod(at("a/b/c"), 0o1777), os.Chmod(at("a"), 0o2750))
	for i := range 300 {
		must(t, os.WriteFile(at(fmt.Sprintf("a/b/%0200d", i)), []byte(fmt.Sprint(i)), 0o600))
	}
	must(t, unix.Setxattr(at("a"), opaqueName, []byte("y"), 0), unix.Setxattr(at("a"), "trusted.overlay.origin", []byte("x"), 0))
	must(t, unix.Setxattr(at("a/large"), "user.note", bytes.Repeat([]byte("n"), 900), 0), unix.Setxattr(at("a/large"), "trusted.other", []byte("o"), 0))
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	must(t, unix.Setxattr(at("a/small"), "security.capability", capability, 0))
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 42, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	must(t, unix.Setxattr(at("empty"), "system.posix_acl_access", acl, 0))
	for _, name := range []string{"a/b/c", "a/b", "a", "empty", "sparse"} {
		must(t, os.Chtimes(at(name), time.Unix(1700000001, 0), time.Unix(1600000002, 0)))
	}
}

// describe lists all that is to be the same, but for the host's attributes.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	inodes := map[uint64]string{}
	must(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		must(t, err)
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		fmt.Fprintf(&b, "%q %o %d:%d %d", name, st.Mode, st.Uid, st.Gid, st.Rdev)
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFLNK {
			fmt.Fprint(&b, " ", st.Mtim.Sec)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if inodes[st.Ino] == "" {
				inodes[st.Ino] = name
			}
			fmt.Fprint(&b, " = ", inodes[st.Ino])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			must(t, err)
			fmt.Fprintf(&b, " %d %q", len(data), bytes.TrimRight(data, "\x00"))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			fmt.Fprint(&b, " -> ", target)
		}
		buf := make([]byte, 4096)
		n, err := unix.Llistxattr(path, buf)
		must(t, err)
		for _, x := range strings.Split(string(buf[:n]), "\x00") {
			if x != "" && x != "trusted.overlay.origin" {
				n, err := unix.Lgetxattr(path, x, buf)
				must(t, err)
				fmt.Fprintf(&b, " %s=%q", x, buf[:n])
			}
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func same(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("line %d of %d and %d:\n got %.500s\nwant %.500s", i, len(g), len(w), strings.Join(g[min(i, len(g)):], "|"), strings.Join(w[min(i, len(w)):], "|"))
		}
	}
}

func TestWriteGivesTheSame(t *testing.T) {
	tree := t.TempDir()
	upper := filepath.Join(tree, upperName)
	must(t, os.Mkdir(upper, 0o751))
	fill(t, upper)
	l, err := Open(image(t, tree))
	must(t, err)
	got := filepath.Join(t.TempDir(), "got")
	must(t, os.Mkdir(got, 0o700), l.Write(t.Context(), got))
	same(t, describe(t, got), describe(t, upper))
	if l.fs.Replayed() {
		t.Error("a fresh disk has crashed")
	}
	if _, err := unix.Lgetxattr(filepath.Join(got, "a"), "trusted.overlay.origin", nil); err == nil {
		t.Error("the attribute of another overlay went over")
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(got, "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("a sparse file occupies %d bytes", st.Blocks*512)
	}
	if err := l.Write(t.Context(), got); !errors.Is(err, unix.EEXIST) {
		t.Errorf("into a directory that is not empty: %v", err)
	}
}

// TestLongPaths: what a guest has deeper than the host's kernel takes paths goes over
// as everything.
func TestLongPaths(t *testing.T) {
	tree := t.TempDir()
	upper := filepath.Join(tree, upperName)
	must(t, os.Mkdir(upper, 0o751))
	path, fd := hostfstest.Deep(t, upper, 100)
	must(t, os.Link(fd+"/f", fd+"/g"), os.Link(fd+"/f", filepath.Join(upper, "hard")))
	l, err := Open(image(t, tree))
	must(t, err)
	for name, carry := range map[string]func(dir string) error{
		"write": func(dir string) error { return l.Write(t.Context(), dir) },
		"merge": func(dir string) error { return errors.Join(l.Merge(t.Context(), dir), l.Merge(t.Context(), dir)) },
	} {
		got := filepath.Join(t.TempDir(), "got")
		must(t, os.Mkdir(got, 0o700), carry(got))
		deep, err := hostfs.Open(got + strings.TrimPrefix(path, upper) + "/g")
		must(t, err)
		a, err := deep.Stat()
		must(t, err, deep.Close())
		b, err := os.Stat(filepath.Join(got, "hard"))
		must(t, err)
		if !os.SameFile(a, b) || b.Sys().(*syscall.Stat_t).Nlink != 3 {
			t.Errorf("%s: %+v and %+v are not one file of three names", name, a, b)
		}
	}
	hostfstest.Deep(t, fd, maxDepth)
	l, err = Open(image(t, tree))
	must(t, err)
	got := filepath.Join(t.TempDir(), "got")
	if err := errors.Join(os.Mkdir(got, 0o700), l.Write(t.Context(), got)); !errors.Is(err, ErrTooMuch) {
		t.Errorf("too deep: %.300v", err)
	}
}

// debugfs does to a disk what only a hostile guest does, in its upper directory.
func debugfs(t *testing.T, disk *os.File, commands []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/sbin/debugfs", "-w", "-f", "-", disk.Name())
	cmd.Stdin = strings.NewReader("cd /upper\n" + strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("rror")) {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
}

// TestOneFileManyTimes: what a disk has once and claims to have often does not fill
// the host.
func TestOneFileManyTimes(t *testing.T) {
	const copies = 4000
	repeat := func(format string) (all []string) {
		for n := range copies {
			all = append(all, fmt.Sprintf(format, n))
		}
		return all
	}
	clones := func(first string) []string { // inodes of their own with the same blocks
		return append(repeat("mknod n%d p"), repeat(first+" n%d")...)
	}
	for name, test := range map[string]struct {
		file     func(path string) error
		commands []string
		want     error
	}{
		"names of a file": {func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
			repeat("link f n%d"), ext4.ErrFormat},
		"names of an empty file": {func(path string) error { return os.WriteFile(path, nil, 0o600) },
			repeat("link f n%d"), ext4.ErrFormat},
		"more names than links": {func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Link(path, path+"2"))
		}, []string{"link f n"}, ext4.ErrFormat},
		"names of a directory": {func(path string) error { return os.Mkdir(path, 0o700) }, []string{"link f n"}, ext4.ErrFormat},
		"data":                 {func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }, clones("copy_inode f"), ErrTooMuch},
		"directories":          {func(path string) error { return os.Mkdir(path, 0o700) }, clones("copy_inode f"), ErrTooMuch},
		"targets of links":     {func(path string) error { return os.Symlink(strings.Repeat("x/", 50), path) }, clones("copy_inode f"), ErrTooMuch},
		"attributes": {func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), unix.Setxattr(path, "user.note", bytes.Repeat([]byte("n"), 3500), 0))
		}, clones("copy_inode f"), ErrTooMuch},
	} {
		t.Run(name, func(t *testing.T) {
			tree := t.TempDir()
			must(t, os.Mkdir(filepath.Join(tree, upperName), 0o751), test.file(filepath.Join(tree, upperName, "f")))
			disk := image(t, tree)
			debugfs(t, disk, test.commands)
			l, err := Open(disk)
			must(t, err)
			dir := t.TempDir()
			if err := l.Write(t.Context(), dir); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			var st unix.Stat_t
			must(t, unix.Fstat(int(disk.Fd()), &st))
			// A block of attributes that files share counts for each of them.
			if used := usage(t, dir); used > 2*st.Blocks*512 {
				t.Errorf("%d bytes of the host, of a disk of %d", used, st.Blocks*512)
			}
		})
	}
}

// usage is what a tree occupies, in bytes.
func usage(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	must(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		bytes += st.Blocks * 512
		return nil
	}))
	return bytes
}

// TestMerge: what the kernel's overlay shows and what a merge makes are the same.
func TestMerge(t *testing.T) {
	tree, lower := t.TempDir(), t.TempDir()
	upper := filepath.Join(tree, upperName)
	must(t, os.Mkdir(upper, 0o755), os.MkdirAll(filepath.Join(lower, "a/hidden/deep"), 0o755))
	fill(t, upper)
	keep := filepath.Join(lower, "keep")
	must(t, os.MkdirAll(filepath.Join(lower, "gone/x/y"), 0o755), os.WriteFile(keep, []byte("kept"), 0o600))
	must(t, os.Symlink("/etc/passwd", filepath.Join(lower, "empty")), os.MkdirAll(filepath.Join(lower, "pipe/d"), 0o755))
	l, err := Open(image(t, tree))
	must(t, err)
	for range 2 { // once more changes nothing
		must(t, l.Merge(t.Context(), lower))
		if data, err := os.ReadFile(keep); err != nil || string(data) != "kept" {
			t.Errorf("kept: %q, %v", data, err)
		}
		for _, name := range []string{"gone", "a/hidden"} {
			if _, err := os.Lstat(filepath.Join(lower, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
		must(t, os.Remove(keep))
		text := strings.ReplaceAll(describe(t, upper), ` trusted.overlay.opaque="y"`, "")
		lines := strings.Split(text, "\n")
		var want []string
		for _, line := range lines {
			if !strings.HasPrefix(line, `"gone" `) {
				want = append(want, line)
			}
		}
		_, got, _ := strings.Cut(describe(t, lower), "\n") // without the top, which has just changed
		same(t, got, strings.Join(want[1:], "\n"))
		must(t, os.WriteFile(keep, []byte("kept"), 0o600))
	}
}

// TestHostileDisks: whatever bytes of a disk change, reading it ends, with files or
// with an error, and nothing is written outside.
func TestHostileDisks(t *testing.T) {
	tree := t.TempDir()
	upper := filepath.Join(tree, upperName)
	must(t, os.Mkdir(upper, 0o751))
	fill(t, upper)
	f := image(t, tree)
	good := make([]byte, 4<<20) // all that is no file's data
	_, err := f.ReadAt(good, 0)
	must(t, err)
	seed := uint32(1)
	random := func(n int) int { seed = seed*1664525 + 1013904223; return int(seed>>8) % n }
	failed := 0
	for range 60 {
		spoiled := bytes.Clone(good)
		for range 1 + random(8) {
			at := random(len(spoiled))
			for bytes.Count(spoiled[at&^255:at&^255+256], []byte{0}) > 250 { // where something is
				at = random(len(spoiled))
			}
			spoiled[at] = byte(random(256))
		}
		_, err := f.WriteAt(spoiled, 0)
		must(t, err)
		dir := filepath.Join(t.TempDir(), "d")
		must(t, os.Mkdir(dir, 0o700))
		l, err := Open(f)
		if err == nil {
			err = l.Write(t.Context(), dir)
		}
		if err != nil {
			failed++
		}
		must(t, os.RemoveAll(dir))
	}
	if failed == 0 {
		t.Error("no damage was noticed")
	}
	_, err = f.WriteAt(good, 0)
	must(t, err)
	if _, err := ext4.Open(f, 1<<20); !errors.Is(err, ext4.ErrFormat) {
		t.Errorf("a disk that ends early: %v", err)
	}
}

// TestCrashedDisk: a disk whose file system was not unmounted is read as the kernel
// would after replaying its journal.
func TestCrashedDisk(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts a file system; set UNI_QEMU_TESTS=1")
	}
	tree := t.TempDir()
	must(t, os.Mkdir(filepath.Join(tree, upperName), 0o755), os.Mkdir(filepath.Join(tree, upperName, "old"), 0o755))
	disk := image(t, tree)
	mnt := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	run("mount", "-o", "loop,nodelalloc", disk.Name(), mnt)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = unix.Unmount(mnt, unix.MNT_DETACH)
		}
	})
	upper := filepath.Join(mnt, upperName)
	// What a transaction holds goes to the journal, and not to its place.
	commit := func() {
		t.Helper()
		d, err := os.Open(upper)
		must(t, err)
		must(t, d.Sync(), d.Close())
	}
	// Directories that come, go, and give their blocks to others' data.
	for i := range 30 {
		dir := filepath.Join(upper, "old", fmt.Sprint(i))
		must(t, os.Mkdir(dir, 0o700))
		for j := range 40 {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%0100d", j)), []byte("x"), 0o600))
		}
		commit()
		if i%2 == 0 {
			must(t, os.RemoveAll(dir))
			must(t, os.WriteFile(filepath.Join(upper, fmt.Sprint("data", i)), bytes.Repeat([]byte("data"), 8192), 0o600))
		}
	}
	fill(t, upper)
	commit()
	crashed := filepath.Join(t.TempDir(), "crashed")
	run("cp", "--sparse=always", disk.Name(), crashed)
	want := describe(t, upper)
	must(t, unix.Unmount(mnt, 0))
	mounted = false

	f, err := os.Open(crashed)
	must(t, err)
	defer f.Close()
	l, err := Open(f)
	must(t, err)
	if !l.fs.Replayed() {
		t.Error("the disk seems to have been unmounted")
	}
	got := filepath.Join(t.TempDir(), "got")
	must(t, os.Mkdir(got, 0o700), l.Write(t.Context(), got))
	same(t, describe(t, got), want)
}
