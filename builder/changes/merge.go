package changes

import (
	"errors"
	"os"

	"containerd-shim-uni/builder/ext4"

	"golang.org/x/sys/unix"
)

// clear removes what a file takes the place of. It is done with a whiteout, which
// is nothing else, and leaves a directory for a directory.
func (c *carrier) clear(dir int, name string, i *ext4.Inode) (done bool, err error) {
	kind := i.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		var st unix.Stat_t
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return false, nil
		}
	}
	whiteout := kind == unix.S_IFCHR && i.Major == 0 && i.Minor == 0
	return whiteout, c.remove(dir, name)
}

// remove removes a file, or a directory with all it holds; nothing need be there.
func (c *carrier) remove(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return os.NewSyscallError("unlink", err)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	err = c.empty(fd)
	unix.Close(fd)
	if err == nil {
		err = os.NewSyscallError("rmdir", unix.Unlinkat(dir, name, unix.AT_REMOVEDIR))
	}
	return err
}

// empty removes all that an open directory holds.
func (c *carrier) empty(fd int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	d := os.NewFile(uintptr(again), "directory")
	names, err := d.Readdirnames(-1)
	d.Close()
	for _, name := range names {
		if err := c.remove(fd, name); err != nil {
			return err
		}
	}
	return err
}
