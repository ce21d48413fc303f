package changes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"containerd-shim-uni/builder/ext4"
	"containerd-shim-uni/builder/hostfs"

	"golang.org/x/sys/unix"
)

const (
	// upperName is the upper directory on the disk.
	upperName = "upper"
	// maxDepth bounds how deep directories nest: one is held open for each.
	maxDepth = 512
	// maxFiles bounds the names.
	maxFiles = 16 << 20
	// block is how many bytes a file system gives a file at least, inlineLink those
	// from which on it gives a symbolic link a block.
	block, inlineLink = 4096, 60
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
		met: inodes{}, linked: map[uint32]*linked{},
	}
	return c.directory(top, upper, nil)
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
	left  int64 // bytes that may be written
	files int   // names that may be made
	met   inodes
	// linked has files of which there are further names to come.
	linked map[uint32]*linked
}

// spend takes bytes that the host needs for something from what the disk's file
// occupies. On the disk it has blocks of its own; a damaged one may have given the
// same blocks to many.
func (c *carrier) spend(bytes int64) error {
	if c.left -= bytes; c.left < 0 {
		return fmt.Errorf("%w: more than the disk's file has", ErrTooMuch)
	}
	return nil
}

// meet takes note of an inode that is met for the first time.
func (c *carrier) meet(i *ext4.Inode) error {
	if !c.met.add(i.Number) {
		return fmt.Errorf("%w: inode %d has more names than its %d", ext4.ErrFormat, i.Number, i.Links)
	}
	return nil
}

// directory fills an open directory and gives it its attributes.
func (c *carrier) directory(fd int, from *ext4.Inode, way *hostfs.Way) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if err := c.meet(from); err != nil {
		return err
	}
	if way.Depth() > maxDepth {
		return fmt.Errorf("%w: directories nest deeper than %d", ErrTooMuch, maxDepth)
	}
	if err := c.spend(max(from.Size, block)); err != nil {
		return err
	}
	xattrs, err := from.Xattrs()
	if err != nil {
		return err
	}
	if c.merge && opaque(xattrs) {
		if err := c.empty(fd); err != nil {
			return named(way, err)
		}
	}
	err = from.Entries(func(e ext4.Entry) error {
		if c.files--; c.files < 0 {
			return fmt.Errorf("%w: more than %d files", ErrTooMuch, maxFiles)
		}
		at := way.To(e.Name)
		i, err := c.fs.Inode(e.Inode)
		if err == nil {
			err = c.entry(fd, e.Name, at, i)
		}
		return named(at, err)
	})
	if err != nil {
		return err
	}
	return named(way, c.attributes(fd, "", from))
}

// entry makes one file in an open directory.
func (c *carrier) entry(dir int, name string, way *hostfs.Way, i *ext4.Inode) error {
	if c.merge {
		if done, err := c.clear(dir, name, i); done || err != nil {
			return err
		}
	}
	if i.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.subdirectory(dir, name, way, i)
	}
	if linked, err := c.link(dir, name, way, i); linked || err != nil {
		return err
	}
	if i.Mode&unix.S_IFMT == unix.S_IFREG {
		return c.regular(dir, name, i)
	}
	if i.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := i.Target()
		if err == nil {
			err = c.spend(min(i.Size/inlineLink, 1) * block)
		}
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

func (c *carrier) subdirectory(dir int, name string, way *hostfs.Way, i *ext4.Inode) error {
	err := unix.Mkdirat(dir, name, 0o700)
	if err != nil && (!c.merge || !errors.Is(err, unix.EEXIST)) {
		return os.NewSyscallError("mkdir", err)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	return c.directory(fd, i, way)
}

// named says which file an error is about, once.
func named(way *hostfs.Way, err error) error {
	const most = 1000 // bytes
	var p *os.PathError
	if err == nil || errors.As(err, &p) {
		return err
	}
	path := way.String()
	if over := len(path) - most; over > 0 {
		path = "…" + path[over:]
	}
	return &os.PathError{Op: "write back", Path: "/" + path, Err: err}
}
