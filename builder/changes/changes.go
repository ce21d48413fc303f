package changes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"containerd-shim-uni/builder/ext4"

	"golang.org/x/sys/unix"
)

const (
	// upperName is the upper directory on the disk.
	upperName = "upper"
	// maxDepth bounds how deep directories nest: one is held open for each.
	maxDepth = 512
	// maxFiles bounds the names.
	maxFiles = 16 << 20
)

// ErrTooMuch says that a disk holds more than can be carried over.
var ErrTooMuch = errors.New("too much to write back")

// Layer is a container's disk that is read.
type Layer struct {
	fs    *ext4.FS
	image *os.File
}

// Open reads what is known of a whole disk. It belongs to the caller, as does the
// file; nobody may write to it.
func Open(image *os.File) (*Layer, error) {
	st, err := image.Stat()
	if err != nil {
		return nil, err
	}
	fs, err := ext4.Open(image, st.Size())
	if err != nil {
		return nil, err
	}
	return &Layer{fs, image}, nil
}

// Crashed says that the machine which wrote the disk did not end as it should:
// what it held in memory is missing.
func (l *Layer) Crashed() bool { return l.fs.Replayed() }

// Write makes dir, an empty directory, equal to the upper directory.
func (l *Layer) Write(ctx context.Context, dir string) error { return l.carry(ctx, dir, false) }

// Merge does to dir what the upper directory says of the files below it: it
// replaces what was written, and removes what was deleted.
func (l *Layer) Merge(ctx context.Context, dir string) error { return l.carry(ctx, dir, true) }

func (l *Layer) carry(ctx context.Context, dir string, merge bool) error {
	upper, err := l.upper()
	if err != nil {
		return err
	}
	top, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(int(l.image.Fd()), &st); err != nil {
		return err
	}
	c := &carrier{
		ctx: ctx, fs: l.fs, image: l.image, merge: merge, top: top,
		left: st.Blocks * 512, files: maxFiles, // st_blocks, see stat(2)
		dirs: map[uint32]bool{}, links: map[uint32]string{},
	}
	return c.directory(top, upper, "", 0)
}

// upper finds the upper directory.
func (l *Layer) upper() (*ext4.Inode, error) {
	root, err := l.fs.Inode(ext4.RootInode)
	if err != nil {
		return nil, err
	}
	var upper *ext4.Inode
	err = root.Entries(func(e ext4.Entry) error {
		if e.Name != upperName {
			return nil
		}
		upper, err = l.fs.Inode(e.Inode)
		return err
	})
	if err == nil && (upper == nil || upper.Mode&unix.S_IFMT != unix.S_IFDIR) {
		err = fmt.Errorf("%w: no directory %q", ext4.ErrFormat, upperName)
	}
	return upper, err
}

// carrier carries one layer over.
type carrier struct {
	ctx   context.Context
	fs    *ext4.FS
	image *os.File
	merge bool
	top   int   // the directory that everything goes to
	left  int64 // bytes of data that may be written
	files int   // names that may be made
	dirs  map[uint32]bool
	// links has the first name of files with several, from the top.
	links map[uint32]string
}

// directory fills an open directory and gives it its attributes.
func (c *carrier) directory(fd int, from *ext4.Inode, path string, depth int) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if c.dirs[from.Number] {
		return fmt.Errorf("%w: directory %d is in two places", ext4.ErrFormat, from.Number)
	}
	c.dirs[from.Number] = true
	if depth > maxDepth {
		return fmt.Errorf("%w: directories nest deeper than %d", ErrTooMuch, maxDepth)
	}
	xattrs, err := from.Xattrs()
	if err != nil {
		return err
	}
	if c.merge && opaque(xattrs) {
		if err := c.empty(fd); err != nil {
			return named(path, err)
		}
	}
	err = from.Entries(func(e ext4.Entry) error {
		if c.files--; c.files < 0 {
			return fmt.Errorf("%w: more than %d files", ErrTooMuch, maxFiles)
		}
		at := e.Name
		if path != "" {
			at = path + "/" + e.Name
		}
		i, err := c.fs.Inode(e.Inode)
		if err == nil {
			err = c.entry(fd, e.Name, at, i, depth)
		}
		return named(at, err)
	})
	if err != nil {
		return err
	}
	return named(path, c.attributes(fd, "", from))
}

// entry makes one file in an open directory.
func (c *carrier) entry(dir int, name, path string, i *ext4.Inode, depth int) error {
	if c.merge {
		if done, err := c.clear(dir, name, i); done || err != nil {
			return err
		}
	}
	switch i.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.subdirectory(dir, name, path, i, depth)
	case unix.S_IFREG:
		return c.regular(dir, name, path, i)
	}
	if linked, err := c.link(dir, name, path, i); linked || err != nil {
		return err
	}
	if i.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := i.Target()
		if err != nil {
			return err
		}
		if strings.Contains(target, "\x00") {
			return fmt.Errorf("%w: a link to %q", ext4.ErrFormat, target)
		}
		if err := unix.Symlinkat(target, dir, name); err != nil {
			return os.NewSyscallError("symlink", err)
		}
	} else if err := unix.Mknodat(dir, name, i.Mode, int(unix.Mkdev(i.Major, i.Minor))); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return c.attributes(dir, name, i)
}

func (c *carrier) subdirectory(dir int, name, path string, i *ext4.Inode, depth int) error {
	err := unix.Mkdirat(dir, name, 0o700)
	if err != nil && (!c.merge || !errors.Is(err, unix.EEXIST)) {
		return os.NewSyscallError("mkdir", err)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	return c.directory(fd, i, path, depth+1)
}

// link makes a further name of a file that is there already.
func (c *carrier) link(dir int, name, path string, i *ext4.Inode) (bool, error) {
	if i.Links < 2 {
		return false, nil
	}
	first, ok := c.links[i.Number]
	if !ok {
		c.links[i.Number] = path
		return false, nil
	}
	// No element of the first name is a link: they are directories made here.
	if err := unix.Linkat(c.top, first, dir, name, 0); err != nil {
		return false, os.NewSyscallError("link", err)
	}
	return true, nil
}

// named says which file an error is about, once.
func named(path string, err error) error {
	var p *os.PathError
	if err == nil || errors.As(err, &p) {
		return err
	}
	return &os.PathError{Op: "write back", Path: "/" + path, Err: err}
}
