package changes

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"containerd-shim-uni/builder/ext4"

	"golang.org/x/sys/unix"
)

// opaqueName is overlayfs' attribute of a directory that hides the one below it.
const opaqueName = "trusted.overlay.opaque"

func opaque(xattrs []ext4.Xattr) bool {
	for _, x := range xattrs {
		if x.Name == opaqueName && string(x.Value) == "y" {
			return true
		}
	}
	return false
}

// carried says whether an attribute goes over to the host.
func carried(x ext4.Xattr) bool {
	switch {
	case x.Name == opaqueName:
		return string(x.Value) == "y"
	case strings.HasPrefix(x.Name, "trusted.overlay."), strings.HasPrefix(x.Name, "user.overlay."):
		return false
	case strings.HasPrefix(x.Name, "security."):
		return x.Name == "security.capability"
	}
	return true
}

// regular makes a regular file.
func (c *carrier) regular(dir int, name string, i *ext4.Inode) error {
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return os.NewSyscallError("create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if i.Size > 0 {
		if err := unix.Ftruncate(fd, i.Size); err != nil {
			return os.NewSyscallError("truncate", err)
		}
	}
	err = i.Extents(func(e ext4.Extent) error {
		n := min(e.Bytes, i.Size-e.Offset)
		if n <= 0 {
			return nil // preallocated beyond the end
		}
		if err := c.spend((n + block - 1) / block * block); err != nil {
			return err
		}
		return c.copy(f, e, n)
	})
	if err != nil {
		return err
	}
	return c.attributes(fd, "", i)
}

// copy copies n bytes of an extent.
func (c *carrier) copy(f *os.File, e ext4.Extent, n int64) error {
	if c.fs.Plain(e.Disk, n) {
		from := e.Disk
		for to := e.Offset; n > 0; {
			done, err := unix.CopyFileRange(int(c.image.Fd()), &from, int(f.Fd()), &to, int(min(n, 1<<30)), 0)
			switch {
			case errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP):
				_, err := io.CopyN(io.NewOffsetWriter(f, to), io.NewSectionReader(c.image, from, n), n)
				return err
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return os.NewSyscallError("copy", err)
			case done == 0:
				return fmt.Errorf("%w: the disk ends early", ext4.ErrFormat)
			}
			n -= int64(done)
		}
		return nil
	}
	buf := make([]byte, block)
	for at := int64(0); at < n; at += block {
		if err := c.fs.Read(e.Disk+at, buf); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf[:min(block, n-at)], e.Offset+at); err != nil {
			return err
		}
	}
	return nil
}

// attributes gives a file that was just made what belongs to it: the one that is
// open, or the one of that name in an open directory.
func (c *carrier) attributes(fd int, name string, i *ext4.Inode) error {
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	flags := unix.AT_EMPTY_PATH
	if name != "" {
		path, flags = path+"/"+name, unix.AT_SYMLINK_NOFOLLOW
	}
	if err := unix.Fchownat(fd, name, int(i.UID), int(i.GID), flags); err != nil {
		return os.NewSyscallError("chown", err)
	}
	if err := c.xattrs(path, name != "", i); err != nil {
		return err
	}
	mode := i.Mode & 0o7777
	var err error
	switch {
	case name == "":
		err = unix.Fchmod(fd, mode)
	case i.Mode&unix.S_IFMT != unix.S_IFLNK: // it is a device, a pipe or a socket, and nobody else is here
		err = unix.Fchmodat(fd, name, mode, 0)
	}
	if err != nil {
		return os.NewSyscallError("chmod", err)
	}
	times := []unix.Timespec{timespec(i.Atime.Unix(), i.Atime.Nanosecond()), timespec(i.Mtime.Unix(), i.Mtime.Nanosecond())}
	if name == "" {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, times, 0)
	} else {
		err = unix.UtimesNanoAt(fd, name, times, unix.AT_SYMLINK_NOFOLLOW)
	}
	return os.NewSyscallError("utimes", err)
}

func timespec(sec int64, nsec int) unix.Timespec {
	return unix.Timespec{Sec: sec, Nsec: int64(nsec)}
}

func (c *carrier) xattrs(path string, nofollow bool, i *ext4.Inode) error {
	set := unix.Setxattr // through the descriptor's link
	if nofollow {
		set = unix.Lsetxattr
	}
	all, err := i.Xattrs()
	if err != nil {
		return err
	}
	for _, x := range all {
		if !carried(x) || c.merge && x.Name == opaqueName {
			continue
		}
		if err := c.spend(int64(len(x.Name) + len(x.Value))); err != nil {
			return err
		}
		if err := set(path, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("attribute %s: %w", x.Name, err)
		}
	}
	return nil
}
