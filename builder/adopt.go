package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/qcow2"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

// File systems by the names that unikernel.DiskInfo has for them.
const (
	erofsName = "erofs"
	tfsName   = "tfs"
)

const (
	// copyFormat is to copies of finished disks what rootFormat is to EROFS.
	copyFormat = "disk 1"
	copySuffix = ".disk"
)

// checkFunc judges a disk of size bytes that an image brings.
type checkFunc func(disk io.ReaderAt, size int64) error

// adopt makes dst the disk that a root file system is, without converting it: a
// link of the file in the snapshot where that is possible, else a copy, shared
// by all containers of the image.
func (s *Store) adopt(ctx context.Context, root unikernel.Rootfs, filesystem, dst string, check checkFunc) error {
	d := root.Disk
	if d.Filesystem != filesystem {
		return fmt.Errorf("%w: the image's disk for the guest %s is %s, not %s: push a disk that this version's uni build made", unikernel.ErrInvalid, d.Guest, d.Filesystem, filesystem)
	}
	f, err := d.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkDisk(f, d.Format, check); err != nil {
		return err
	}
	if linked, err := linkOpen(f, dst); linked || err != nil {
		return err
	}
	fill := func(ctx context.Context, out *os.File) error { return copyData(ctx, out, f, d.Size) }
	if root.Key == "" {
		return s.private(ctx, dst, fill)
	}
	return s.obtain(ctx, filepath.Join(s.rootsDir(), digest(copyFormat, root.Key)+copySuffix), dst, fill)
}

// checkDisk looks at a disk before anything else does. A qcow2 file that names
// another file of the host is refused: QEMU would read that.
func checkDisk(f *os.File, format string, check checkFunc) error {
	disk, size, err := openFormat(f, format)
	if err == nil {
		err = check(disk, size)
	}
	if errors.Is(err, qcow2.ErrFormat) || errors.Is(err, reader.ErrFormat) || errors.Is(err, tfs.ErrFormat) {
		return fmt.Errorf("%w: the image's disk is damaged, pull the image or push its disk again: %w", unikernel.ErrInvalid, err)
	}
	return err
}

// openFormat returns the disk in a file, and its size. The format is never
// guessed from the contents.
func openFormat(f *os.File, format string) (io.ReaderAt, int64, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if format != "qcow2" {
		return f, st.Size(), nil
	}
	q, err := qcow2.Open(f, st.Size())
	if err != nil {
		return nil, 0, err
	}
	return q, q.Size(), nil
}

// checkRoot wants a file system that is all there.
func checkRoot(disk io.ReaderAt, size int64) error {
	_, err := reader.Open(disk, size)
	return err
}

// linkOpen makes dst another name of an open file. It does not where the file is
// on another file system, or is not as uni push makes it: readable by everybody,
// so by QEMU's user, and writable by nobody. The file is the snapshotter's, and
// its mode cannot be changed for us.
func linkOpen(f *os.File, dst string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, err
	}
	if st.Mode&0o777 != 0o444 || st.Uid != 0 {
		return false, nil
	}
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, dst, unix.AT_SYMLINK_FOLLOW)
	for _, e := range []error{unix.EXDEV, unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return false, nil
		}
	}
	if err != nil {
		return false, &os.LinkError{Op: "link", Old: f.Name(), New: dst, Err: err}
	}
	return true, nil
}

// adoptBoot is adopt for a disk to boot from. It must hold the kernel that boots
// it: what is on the disk was laid out for that.
func (s *Store) adoptBoot(ctx context.Context, root unikernel.Rootfs, d tfs.Disk, dst string) error {
	return s.adopt(ctx, root, tfsName, dst, func(disk io.ReaderAt, size int64) error {
		image, err := tfs.Open(disk, size)
		if err != nil {
			return err
		}
		boot, err := image.Boot()
		if err != nil {
			return err
		}
		f, err := boot.Lookup("kernel")
		if err != nil {
			return fmt.Errorf("no kernel: %w", tfs.ErrFormat)
		}
		if f.Size() > tfs.MaxKernel {
			return fmt.Errorf("the kernel has %d bytes: %w", f.Size(), tfs.ErrFormat)
		}
		r, err := f.Reader()
		if err != nil {
			return err
		}
		kernel, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if have, want := sum(kernel), sum(d.Kernel); have != want {
			return fmt.Errorf("%w: the image's disk was made for the Nanos kernel sha256:%.12s…, installed is sha256:%.12s… (nanos.kernel): make the disk with that kernel (uni build --guest nanos), or install the disk's",
				unikernel.ErrInvalid, have, want)
		}
		return nil
	})
}
