package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// visible returns the directories, topmost first, that show the files of mounts
// without mounting them, but for the container's own layer. ok is false for
// mounts that must be mounted to see.
func visible(mounts []mount.Mount) (dirs []string, ok bool) {
	if len(mounts) != 1 || mounts[0].Target != "" {
		return nil, false
	}
	switch m := mounts[0]; m.Type {
	case "bind", "rbind":
		return []string{m.Source}, true
	case "overlay":
		for _, o := range m.Options {
			name, value, _ := strings.Cut(o, "=")
			switch name {
			case "lowerdir":
				if strings.Contains(value, `\`) || strings.Contains(value, "::") {
					return nil, false // escaped colons, data-only layers
				}
				dirs = strings.Split(value, ":")
			}
		}
	}
	return dirs, len(dirs) > 0 && !slices.ContainsFunc(dirs, func(d string) bool { return !filepath.IsAbs(d) })
}

// finished returns the disk that the mounts' files are, nil if they are none.
func finished(mounts []mount.Mount) (*unikernel.FinishedDisk, error) {
	dirs, ok := visible(mounts)
	if !ok {
		return nil, nil
	}
	for _, dir := range dirs {
		disk, err := look(dir)
		if errors.Is(err, errHidden) {
			return nil, nil
		}
		if disk == nil && err == nil {
			continue
		}
		if err == nil && len(dirs) > 1 {
			err = fmt.Errorf("%w: the image has layers beside that of its disk, and their files would be missing; make a disk of the image without a disk in it (uni build, uni push)",
				unikernel.ErrInvalid)
		}
		return disk, err
	}
	return nil, nil
}

// Untouched refuses an overlay whose own layer is not empty, for a guest that
// takes a finished disk as it is.
func Untouched(mounts []*types.Mount) error {
	for _, m := range mounts {
		for _, o := range m.Options {
			upper, ok := strings.CutPrefix(o, "upperdir=")
			if !ok || m.Type != "overlay" {
				continue
			}
			if empty, err := isEmpty(upper); err != nil || empty {
				return err
			}
			return fmt.Errorf("%w: files were put into the container's layer, and cannot be added to the image's disk; mount them instead", unikernel.ErrNotImplemented)
		}
	}
	return nil
}

// errHidden says that a layer takes away what those below it have.
var errHidden = errors.New("hidden by a whiteout")

// look returns the disk in a directory, nil if there is none. Everything there
// comes from an image: no symbolic link is followed, nothing but regular files
// is opened for long.
func look(dir string) (*unikernel.FinishedDisk, error) {
	info, size, err := openIn(dir, unikernel.DiskInfoFile)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case errors.Is(err, unix.ENOTDIR):
		return nil, errHidden
	case err != nil:
		return nil, err
	}
	defer info.Close()
	if size > unikernel.MaxDiskInfo {
		return nil, fmt.Errorf("/%s: %w: %d bytes, at most %d are read", unikernel.DiskInfoFile, unikernel.ErrInvalid, size, unikernel.MaxDiskInfo)
	}
	data, err := io.ReadAll(io.LimitReader(info, unikernel.MaxDiskInfo))
	if err != nil {
		return nil, err
	}
	d := &unikernel.FinishedDisk{}
	if d.DiskInfo, err = unikernel.ParseDiskInfo(data); err != nil {
		return nil, err
	}
	d.Open = func() (*os.File, error) { return openDisk(dir, d.Size) }
	f, err := d.Open()
	if err != nil {
		return nil, err
	}
	return d, f.Close()
}

func openDisk(dir string, want int64) (*os.File, error) {
	f, size, err := openIn(dir, unikernel.DiskFile)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("/%s: %w: the image describes a disk and has none: push it again (uni push)", unikernel.DiskFile, unikernel.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	if size != want {
		f.Close()
		return nil, fmt.Errorf("/%s: %w: the disk has %d bytes and should have %d: pull the image again, or push its disk again (uni push)",
			unikernel.DiskFile, unikernel.ErrInvalid, size, want)
	}
	return f, nil
}

// finder finds files in directories, topmost first, as an overlay of them shows
// them.
func finder(dirs []string) func(string) (unikernel.ImageFile, int64, error) {
	return func(name string) (unikernel.ImageFile, int64, error) {
		name = strings.TrimPrefix(filepath.Clean("/"+name), "/")
		for _, dir := range dirs {
			f, size, err := openIn(dir, name)
			switch {
			case err == nil:
				return f, size, nil
			case errors.Is(err, errHidden), errors.Is(err, unix.ENOTDIR):
				return nil, 0, &fs.PathError{Op: "open", Path: "/" + name, Err: fs.ErrNotExist}
			case !errors.Is(err, unix.ENOENT):
				return nil, 0, err
			}
			if closed, err := closesOff(dir, name); err != nil || closed {
				return nil, 0, errors.Join(err, &fs.PathError{Op: "open", Path: "/" + name, Err: fs.ErrNotExist})
			}
		}
		return nil, 0, &fs.PathError{Op: "open", Path: "/" + name, Err: fs.ErrNotExist}
	}
}

// opaque are the attributes of a directory of a layer that takes the place of those
// below it (the kernel's Documentation/filesystems/overlayfs.rst).
var opaque = []string{"trusted.overlay.opaque", "user.overlay.opaque"}

// closesOff says whether a directory on the way to a file hides what other layers
// have there.
func closesOff(layer, name string) (bool, error) {
	root, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: layer, Err: err}
	}
	defer unix.Close(root)
	for parent := filepath.Dir(name); parent != "."; parent = filepath.Dir(parent) {
		at, err := unix.Openat2(root, parent, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return false, &os.PathError{Op: "open", Path: filepath.Join(layer, parent), Err: err}
		}
		var value [2]byte
		for _, attribute := range opaque {
			n, _ := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", at), attribute, value[:])
			if n == 1 && value[0] == 'y' {
				unix.Close(at)
				return true, nil
			}
		}
		unix.Close(at)
	}
	return false, nil
}

// beneath follows no link of an image's.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// openIn opens a regular file below a directory, whatever names in it may be.
// It is opened only when it is known to be one: opening a device of an image's
// choice could do anything to the host.
func openIn(dir, name string) (f *os.File, size int64, err error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	at, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: beneath})
	if errors.Is(err, unix.ELOOP) {
		return nil, 0, fmt.Errorf("/%s: %w: a symbolic link leads there", name, unikernel.ErrInvalid)
	}
	if err != nil {
		return nil, 0, &os.PathError{Op: "open", Path: filepath.Join(dir, name), Err: err}
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return nil, 0, &os.PathError{Op: "stat", Path: filepath.Join(dir, name), Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return nil, 0, errHidden
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, 0, fmt.Errorf("/%s: %w: it is no regular file", name, unikernel.ErrInvalid)
	}
	f, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", at))
	return f, st.Size, err
}
