package erofs

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel mounts the image and shows the tree, with what only root can make.
func TestMount(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts a file system; set UNI_QEMU_TESTS=1")
	}
	dir := makeTree(t, false)
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
	must(t, os.Lchown(filepath.Join(dir, "relative"), 70000, 4000000000))
	// cap_net_raw+ep as VFS_CAP_REVISION_2, see capabilities(7).
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(t, unix.Setxattr(filepath.Join(dir, "a/f"), "security.capability", []byte(capability), 0))
	must(t, unix.Setxattr(filepath.Join(dir, "a"), "trusted.x", []byte("y"), 0))
	// user::rw user:1000:r group::r mask::r other::-, see acl(5) and linux/posix_acl_xattr.h.
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	must(t, unix.Setxattr(filepath.Join(dir, "empty"), "system.posix_acl_access", []byte(acl), 0))
	setTimes(t, dir)

	mnt := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "erofs", "-o", "loop,ro", writeImage(t, dir), mnt).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(mnt, 0)) })
	// Names, kinds, link targets and contents; diff also follows directories.
	if out, err := exec.CommandContext(t.Context(), "diff", "-r", "--no-dereference", dir, mnt).CombinedOutput(); err != nil && !onlySpecial(string(out)) {
		t.Errorf("the mounted tree differs: %v\n%.2000s", err, out)
	}
	compareMounted(t, dir, mnt)
	for path, want := range map[string][2]string{"a/f": {"security.capability", capability}, "a": {"trusted.x", "y"}, "empty": {"system.posix_acl_access", acl}} {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(filepath.Join(mnt, path), want[0], buf)
		if err != nil || string(buf[:n]) != want[1] {
			t.Errorf("%s: %s is %q, %v", path, want[0], buf[:max(n, 0)], err)
		}
	}
}

// onlySpecial says whether diff complains of nothing but special files, which
// it cannot compare.
func onlySpecial(output string) bool {
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, "File ") && strings.Contains(line, " while file ") {
			continue
		}
		return false
	}
	return true
}

// compareMounted compares what stat says.
func compareMounted(t *testing.T, dir, mnt string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var want, got unix.Stat_t
		must(t, unix.Lstat(path, &want))
		must(t, unix.Lstat(filepath.Join(mnt, rel), &got))
		if e.IsDir() { // the size of a directory is the file system's own
			got.Size = want.Size
		}
		if got.Mode != want.Mode || got.Uid != want.Uid || got.Gid != want.Gid || got.Mtim != want.Mtim ||
			got.Nlink != want.Nlink || got.Rdev != want.Rdev || got.Size != want.Size {
			t.Errorf("%.80q: mounted %+v, want %+v", rel, got, want)
		}
		return nil
	}))
}
