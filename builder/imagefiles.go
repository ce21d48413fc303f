package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/unikernel"
)

const (
	// fileFormat is to files of an image what rootFormat is to erofs.
	fileFormat = "file 1"
	fileSuffix = ".file"
	// The largest files that are taken from an image, in bytes.
	maxKernel = 1 << 30
	maxInitrd = 4 << 30
	maxDisk   = maxWritable
	// copyUnit is how much is copied before the context is asked again.
	copyUnit = 64 << 20
)

// ImageFiles copies the files that in names in root to those that out names on
// the host, under the rules of Root; empty ones are left out. The root is not
// trusted: symbolic links stay within it, and only regular files of bounded size
// are taken. The disk's copy is raw: a qcow2 image is read here, so that no QEMU
// ever sees what it claims, and one with a backing file, an external data file
// or compression is refused. What cannot be taken is unikernel.ErrInvalid.
//
// After an error none of the copies exists.
func (s *Store) ImageFiles(ctx context.Context, root unikernel.Rootfs, in, out unikernel.ImageFiles) (err error) {
	var done []string
	defer func() {
		if err != nil {
			for _, path := range done {
				os.Remove(path)
			}
		}
	}()
	open := &openOnce{root: root}
	defer func() { err = errors.Join(err, open.close()) }()
	for _, f := range []struct {
		kind, in, out string
		most          int64
		write         func(context.Context, *os.File, *os.File, int64) error
	}{
		{"kernel", in.Kernel, out.Kernel, maxKernel, copyData},
		{"initrd", in.Initrd, out.Initrd, maxInitrd, copyData},
		{"disk", in.Disk, out.Disk, maxDisk, copyDisk},
	} {
		if f.in == "" {
			continue
		}
		build := func(ctx context.Context, dst *os.File) error {
			dir, err := open.dir(ctx)
			if err != nil {
				return err
			}
			return s.copyOut(ctx, dst, dir, f.in, f.most, f.write)
		}
		if root.Key == "" {
			err = s.private(ctx, f.out, build)
		} else {
			name := digest(fileFormat, root.Key, f.kind, f.in) + fileSuffix
			err = s.obtain(ctx, filepath.Join(s.rootsDir(), name), f.out, build)
		}
		if err != nil {
			return fmt.Errorf("the image's %s %s: %w", f.kind, f.in, err)
		}
		done = append(done, f.out)
	}
	return nil
}

// DiskLayer makes dst a container's own layer over base, a raw disk beside it.
// dst must not exist; after an error it does not.
func (s *Store) DiskLayer(base, dst string) error {
	st, err := os.Stat(base)
	if err != nil {
		return wrap("disk layer", dst, err)
	}
	const sector = 512
	size := max((st.Size()+sector-1)/sector*sector, sector)
	o := qcow2.Overlay{Size: size, Backing: filepath.Base(base), BackingFormat: "raw"}
	return wrap("disk layer", dst, s.newFile(dst, o.Write))
}

// openOnce opens a root when its files are first asked for.
type openOnce struct {
	root  unikernel.Rootfs
	once  sync.Once
	path  string
	err   error
	after func() error
}

func (o *openOnce) dir(ctx context.Context) (string, error) {
	o.once.Do(func() { o.path, o.after, o.err = o.root.Open(ctx) })
	if o.err != nil {
		return "", fmt.Errorf("open root file system: %w", o.err)
	}
	return o.path, nil
}

func (o *openOnce) close() error {
	if o.after == nil {
		return nil
	}
	if err := o.after(); err != nil {
		return fmt.Errorf("close root file system: %w", err)
	}
	return nil
}

// copyOut writes a file of the root at dir to dst, once more when the disk was
// full and something could leave the cache.
func (s *Store) copyOut(ctx context.Context, dst *os.File, dir, path string, most int64,
	write func(context.Context, *os.File, *os.File, int64) error) error {
	src, size, err := openWithin(dir, path, most)
	if err != nil {
		return err
	}
	defer src.Close()
	err = write(ctx, dst, src, size)
	if !isFull(err) {
		return err
	}
	if freed, perr := s.evict(0); perr != nil || freed.Files == 0 {
		return err
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	return write(ctx, dst, src, size)
}

// openWithin opens a regular file below dir as if dir were the root. What a
// path leads to is looked at before it is opened: opening a device acts on it.
func openWithin(dir, path string, most int64) (*os.File, int64, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, 0, fmt.Errorf("%w: there is no such file in the image", unikernel.ErrInvalid)
	case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG):
		return nil, 0, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	case err != nil:
		return nil, 0, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, 0, fmt.Errorf("%w: it is no regular file", unikernel.ErrInvalid)
	case st.Size > most:
		return nil, 0, fmt.Errorf("%w: it has %d bytes, at most %d are taken", unikernel.ErrInvalid, st.Size, most)
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	return f, st.Size, err
}

// copyData copies a file with its holes.
func copyData(ctx context.Context, dst, src *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, end, err := hostfs.NextData(src, at, size)
		if err != nil {
			return err
		}
		for at = start; at < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(end-at, copyUnit)
			if err := copyRange(dst, src, at, n); err != nil {
				return err
			}
			at += n
		}
	}
	return dst.Truncate(size)
}

// copyRange leaves the copying, and sharing of blocks, to the kernel.
func copyRange(dst, src *os.File, at, n int64) error {
	if _, err := src.Seek(at, io.SeekStart); err != nil {
		return err
	}
	if _, err := dst.Seek(at, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.CopyN(dst, src, n); errors.Is(err, io.EOF) {
		return hostfs.ErrChanged
	} else if err != nil {
		return err
	}
	return nil
}

// copyDisk copies a disk, raw or qcow2, to a raw one.
func copyDisk(ctx context.Context, dst, src *os.File, size int64) error {
	if !qcow2.IsImage(src) {
		return copyData(ctx, dst, src, size)
	}
	disk, err := qcow2.Open(src, size)
	if err == nil && disk.Size() > maxDisk {
		err = fmt.Errorf("a disk of %d bytes, at most %d are taken", disk.Size(), int64(maxDisk))
	}
	if err == nil {
		err = unpack(ctx, dst, disk, size)
	}
	if errors.Is(err, qcow2.ErrFormat) {
		return fmt.Errorf("%w: %w: only qcow2 images that hold all of their disk, uncompressed, are taken; qemu-img convert -O qcow2 makes one", unikernel.ErrInvalid, err)
	}
	return err
}

// unpack writes the data of a qcow2 image. They are at most what the image's
// file holds: in one that says otherwise, places on the disk share their data.
func unpack(ctx context.Context, dst *os.File, disk *qcow2.Reader, most int64) error {
	unit := disk.Cluster()
	buf, zero := make([]byte, unit), make([]byte, unit)
	for at := disk.Next(0); at < disk.Size(); at = disk.Next(at + unit) {
		if err := ctx.Err(); err != nil {
			return err
		}
		chunk := buf[:min(unit, disk.Size()-at)]
		if _, err := disk.ReadAt(chunk, at); err != nil {
			return err
		}
		if bytes.Equal(chunk, zero[:len(chunk)]) {
			continue
		}
		if most -= int64(len(chunk)); most < 0 {
			return fmt.Errorf("%w: it has more data than its file", qcow2.ErrFormat)
		}
		if _, err := dst.WriteAt(chunk, at); err != nil {
			return err
		}
	}
	return dst.Truncate(disk.Size())
}
