package confine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel/thread"
)

// viewName is the source of the file system that is a confined QEMU's root.
const viewName = "uni-view"

// It is bounded, and holds directories and mount points, all root's.
const (
	viewFlags   = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	viewOptions = "mode=0711,size=64k,nr_inodes=4096"
)

// ErrShared says that a QEMU sees the host's files as libvirt does.
var ErrShared = errors.New("QEMU has no mount namespace of its own")

// File is a file that a confined QEMU has at its path on the host.
type File struct {
	Path     string
	ReadOnly bool
	// Device says that it is a node whose device may be opened: that one alone.
	Device bool
}

// Possible says why QEMU cannot be kept from the host's files, nil if it can:
// libvirt makes a mount namespace, and in it devices for QEMU. Root of some
// containers may not; and who enters a namespace is at its root, so that in a
// chroot(2) libvirt would make the devices elsewhere.
func Possible() error {
	return thread.Discard(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return fmt.Errorf("a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return wrapPath("make private", "/", err)
		}
		const at = "/dev"
		if err := unix.Mount(viewName, at, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, viewOptions); err != nil {
			return wrapPath("mount tmpfs on", at, err)
		}
		const null = at + "/null" // mem(4)
		if err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
			return wrapPath("mknod", null, err)
		}
		f, err := os.Open(null) // which a mount by a user namespace does not allow
		if err != nil {
			return err
		}
		f.Close()
		here, err := os.Stat(at)
		if err != nil {
			return err
		}
		ns, err := os.Open("/proc/thread-self/ns/mnt")
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the mount namespace: %w", err)
		}
		again, err := os.Stat(at)
		if err != nil || !os.SameFile(here, again) {
			return errChroot
		}
		return nil
	})
}

var errChroot = errors.New("this process is in a chroot: enter the tree with pivot_root(8) instead")

// To makes some files all that a QEMU has of the host's. It is ErrShared for
// one in our mount namespace; that of others the caller has ruled out.
func To(pid int, files []File) error {
	return withCopies(files, func(copies []int) error {
		return enter(pid, func() error { return changeRoot(files, copies) })
	})
}

// Reveal adds files to those of a confined QEMU. To another one nothing is hidden.
func Reveal(pid int, files []File) error {
	if confined, err := isConfined(pid); err != nil || !confined {
		return err
	}
	return withCopies(files, func(copies []int) error {
		return enter(pid, func() error { return place("/", files, copies) })
	})
}

// Conceal takes files from a confined QEMU, if it has them; what it has open it
// keeps.
func Conceal(pid int, files []File) error {
	if confined, err := isConfined(pid); err != nil || !confined {
		return err
	}
	return enter(pid, func() error {
		for _, f := range files {
			err := unix.Unmount(f.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
				continue // not there
			}
			if err = errors.Join(err, os.Remove(f.Path)); err != nil {
				return err
			}
			for dir := filepath.Dir(f.Path); os.Remove(dir) == nil; dir = filepath.Dir(dir) {
			}
		}
		return nil
	})
}

// enter runs f on a thread in a process's mount namespace, at its root. It is
// ErrShared if that namespace is ours.
func enter(pid int, f func() error) error {
	proc := "/proc/" + strconv.Itoa(pid)
	its, err := os.Readlink(proc + "/ns/mnt")
	if err != nil {
		return err
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if its == ours {
		return ErrShared
	}
	ns, err := os.Open(proc + "/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	root, err := os.OpenFile(proc+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	return thread.Discard(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare the root: %w", err)
		}
		unix.Umask(0) // this thread's
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter QEMU's mount namespace: %w", err)
		}
		err := unix.Fchdir(int(root.Fd()))
		if err == nil {
			err = unix.Chroot(".")
		}
		if err != nil {
			return fmt.Errorf("enter QEMU's root: %w", err)
		}
		return f()
	})
}

// isConfined tells whether a process has a root that is confine's.
func isConfined(pid int) (bool, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return false, err
	}
	defer f.Close()
	// proc(5): number, parent, device, root, mount point, options …, "-", type, source …
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if len(where) > 4 && where[4] == "/" && len(what) > 1 && what[1] == viewName {
			return true, nil
		}
	}
	return false, lines.Err()
}

// withCopies runs f with a mount of each file that is nowhere yet, made from this
// process's namespace.
func withCopies(files []File, f func(copies []int) error) error {
	var copies []int
	defer func() {
		for _, fd := range copies {
			unix.Close(fd)
		}
	}()
	for _, file := range files {
		fd, err := unix.OpenTree(unix.AT_FDCWD, file.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return wrapPath("open_tree", file.Path, err)
		}
		copies = append(copies, fd)
	}
	return f(copies)
}

// changeRoot replaces the root of the namespace of this thread, and with it that
// of all processes in it. The old one is then nowhere.
func changeRoot(files []File, copies []int) error {
	// Else the host's mounts, of which these are copies, could go with them.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return wrapPath("make private", "/", err)
	}
	// libvirt's /dev of this QEMU, of which nothing is needed any more.
	const at = "/dev"
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	if err := unix.Mount(viewName, at, "tmpfs", viewFlags, viewOptions+label(string(mounts), at)); err != nil {
		return wrapPath("mount tmpfs on", at, err)
	}
	if err := place(at, files, copies); err != nil {
		return err
	}
	if err := unix.Chdir(at); err != nil {
		return wrapPath("chdir", at, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil { // the old root is now on top of the new one
		return wrapPath("pivot_root", at, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return wrapPath("unmount", "the old root", err)
	}
	// Nobody's root: with one more mount on top, the root of the processes here is
	// not that of their namespace, and such a process gets no user namespace
	// (clone(2), EPERM), in which it would be root and reach more of the kernel.
	return wrapPath("mount on", "/", unix.Mount(viewName, "/", "tmpfs", viewFlags, "mode=0,size=4k,nr_inodes=1"))
}

// label is the option of the file system that is on top at a path by which SELinux
// gives all in it one label: libvirt's /dev has the machine's, with which its QEMU may
// pass through directories of a root too. Elsewhere there is none.
func label(mountinfo, at string) string {
	option := ""
	for line := range strings.Lines(mountinfo) {
		// See isConfined; the last field is the file system's options.
		before, after, _ := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if len(where) < 5 || where[4] != at || len(what) < 3 {
			continue
		}
		option = "" // the one that was mounted last counts
		if _, context, found := strings.Cut(","+what[2], ",context="); found {
			end := strings.IndexByte(context, ',')
			if rest, quoted := strings.CutPrefix(context, `"`); quoted { // it has commas
				end = strings.IndexByte(rest, '"') + 2
			}
			if end < 0 {
				end = len(context)
			}
			option = ",context=" + context[:end]
		}
	}
	return option
}

// place mounts copies of files below a directory, at their own paths.
func place(root string, files []File, copies []int) error {
	for i, f := range files {
		target := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(target), 0o711); err != nil {
			return err
		}
		point, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL, 0)
		if errors.Is(err, fs.ErrExist) {
			continue // two disks of one file
		}
		if err != nil {
			return err
		}
		point.Close()
		if err := unix.MoveMount(copies[i], "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return wrapPath("mount", f.Path, err)
		}
		flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | viewFlags)
		if f.ReadOnly {
			flags |= unix.MS_RDONLY
		}
		if f.Device {
			flags &^= unix.MS_NODEV
		}
		if err := unix.Mount("", target, "", flags, ""); err != nil {
			return wrapPath("remount", f.Path, err)
		}
	}
	return nil
}

func wrapPath(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// Alone is ErrShared if another process is in a process's mount namespace, as
// libvirtd is where its configuration says namespaces = [].
func Alone(pid int) error {
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		other, err := strconv.Atoi(e.Name())
		if err != nil || other == pid {
			continue
		}
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/mnt"); err == nil && ns == its {
			return fmt.Errorf("%w: process %d is in it", ErrShared, other)
		}
	}
	return nil
}
