package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/thread"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Tree is the directory of a machine's share. It is mounted in a mount namespace of
// its own, as is all that is shared: on the host nothing of it is in the way of who
// removes or unmounts a source, and when nobody uses the namespace any more it is
// gone, whatever became of us. Mounts come and go in it while the machine runs. Its
// methods may be called concurrently.
type Tree struct {
	dir  string
	ns   *os.File
	last atomic.Int64 // number of the group that was added last
}

// New makes dir the directory of a share. It is a mount of its own from which
// other mounts propagate, and has to be that before virtiofsd starts: virtiofsd
// has a mount namespace of its own, whose mounts are slaves of these.
func New(dir string) (*Tree, error) {
	t := &Tree{dir: dir}
	for _, at := range []string{dir, staging(dir)} {
		if err := os.Mkdir(at, 0o700); err != nil {
			return nil, fmt.Errorf("directory of the share: %w", err)
		}
	}
	err := thread.Discard(func() (err error) {
		if err := ownNamespace(dir); err != nil {
			return err
		}
		t.ns, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount namespace of the share: %w", err), Unmount(dir))
	}
	return t, nil
}

// Namespace is the path of the mount namespace for who starts virtiofsd, in this
// process and until Close.
func (t *Tree) Namespace() string { return fmt.Sprintf("/proc/self/fd/%d", t.ns.Fd()) }

// Close lets go of the namespace: with the machine's virtiofsd all that is shared is
// gone.
func (t *Tree) Close() error { return t.ns.Close() }

// inside runs f in the tree's mount namespace.
func (t *Tree) inside(f func() error) error { return thread.InMountNS(t.ns, f) }

// ownNamespace gives the calling thread a mount namespace with the directory of the
// share and what virtiofsd needs to start. Nothing that happens there is seen on the
// host, but what the host unmounts is unmounted there.
func ownNamespace(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("set propagation of mounts", err)
	}
	if err := ownMount(dir, unix.MS_PRIVATE, unix.MS_SHARED); err != nil {
		return err
	}
	if err := ownMount(staging(dir), unix.MS_PRIVATE); err != nil {
		return err
	}
	return forget(filepath.Dir(dir))
}

// programs are the directories in which programs and their libraries are, on any
// distribution; system is what they need besides.
var (
	programs = []string{"/bin", "/gnu", "/lib", "/lib64", "/nix", "/opt", "/sbin", "/usr"}
	system   = []string{"/dev/null", "/etc", "/proc"}
)

// forget unmounts in this namespace what neither the system nor dir lies in: else a
// file system would be in use as long as the machine runs, where its mounts do not
// propagate.
func forget(dir string) error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	for _, m := range slices.Backward(mounts) {
		holds := func(path string) bool { return lies(path, m.Mountpoint) }
		within := func(path string) bool { return lies(m.Mountpoint, path) }
		if holds(dir) || within(dir) || slices.ContainsFunc(system, holds) || slices.ContainsFunc(programs, holds) || slices.ContainsFunc(programs, within) {
			continue
		}
		// One below another that is gone, or that something covers, is not found.
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// lies says whether a path is a directory or in it.
func lies(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// staging is a directory beside the share that nobody else sees. A mount is made
// what it shall be there: virtiofsd would have a copy of one that it sees, which
// stays as it was.
func staging(dir string) string { return dir + ".staging" }

// ownMount makes a directory a mount of its own, of the kinds of propagation.
func ownMount(dir string, kinds ...uintptr) error {
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("bind mount", err)
	}
	for _, kind := range kinds {
		if err := unix.Mount("", dir, "", kind, ""); err != nil {
			return os.NewSyscallError("set propagation of mount", err)
		}
	}
	return nil
}

// Group is what was added for one container.
type Group struct {
	// Shares are the container's, each under the name that it has in the share.
	Shares []unikernel.SharedMount
	tree   *Tree
	dir    string
}

// Add mounts the shares of a container, as Plan names them, in a directory of its
// own. No other has had its name: a guest may remember that a name was not there,
// or what was there.
func (t *Tree) Add(shares []unikernel.SharedMount) (*Group, error) {
	name := strconv.FormatInt(t.last.Add(1), 10)
	g := &Group{tree: t, dir: filepath.Join(t.dir, name), Shares: slices.Clone(shares)}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, err
	}
	for i, s := range shares {
		if err := g.mount(s); err != nil {
			return nil, errors.Join(fmt.Errorf("share %s as %s: %w", s.Mount.Source, s.Mount.Destination, err), g.Remove())
		}
		g.Shares[i].Name = filepath.Join(name, s.Name)
	}
	return g, nil
}

// Remove takes the shares away again, after the guest has unmounted them. It can
// be repeated.
func (g *Group) Remove() error { return g.tree.inside(func() error { return unmountAll(g.dir) }) }

// mount mounts one share, unless it is part of another.
func (g *Group) mount(s unikernel.SharedMount) error {
	top, _, deep := strings.Cut(s.Name, "/")
	if deep && !strings.HasPrefix(top, fileDir) {
		return nil
	}
	source, err := clone(s.Mount)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	return g.tree.inside(func() error {
		if deep {
			if err := filePlace(filepath.Join(g.dir, top)); err != nil {
				return err
			}
		}
		return g.bind(s, source, info.IsDir())
	})
}

// clone makes a bind mount of a source that is nowhere yet, so that it can be put in
// another mount namespace. (Linux 5.2.)
func clone(m specs.Mount) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive(m) {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: m.Source, Err: err}
	}
	return os.NewFile(uintptr(fd), m.Source), nil
}

// filePlace makes the directory for the single files of a file system: a mount of
// its own gives them a device number of their own in the guest.
func filePlace(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return os.NewSyscallError("mount tmpfs", unix.Mount("files", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"))
}

// bind puts one mount in the staging directory, and moves it to its place when
// its propagation, and that it is read-only, are settled.
func (g *Group) bind(s unikernel.SharedMount, source *os.File, dir bool) error {
	target, stage := filepath.Join(g.dir, s.Name), filepath.Join(staging(g.tree.dir), filepath.Base(g.dir))
	if err := mountPoint(target, dir); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil // another mount of the same source
		}
		return err
	}
	if err := mountPoint(stage, dir); err != nil {
		return err
	}
	err := os.NewSyscallError("move_mount", unix.MoveMount(int(source.Fd()), "", unix.AT_FDCWD, stage, unix.MOVE_MOUNT_F_EMPTY_PATH))
	if err == nil {
		err = settle(stage, s.Mount)
	}
	if err == nil {
		err = os.NewSyscallError("move mount", unix.Mount(stage, target, "", unix.MS_MOVE, ""))
	}
	return errors.Join(err, unmountAll(stage))
}

// mountPoint makes an empty directory or file.
func mountPoint(path string, dir bool) error {
	if dir {
		return os.Mkdir(path, 0o700)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// settle makes a bind mount what its options want.
func settle(target string, m specs.Mount) error {
	// None of the mounts and unmounts that we make reach the source. Those of the
	// host reach the share where that is asked for: there, as everything in the
	// share, it is also something that propagates.
	kind := uintptr(unix.MS_PRIVATE)
	if slave(m) {
		kind = unix.MS_SLAVE
	}
	if err := unix.Mount("", target, "", kind|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("set propagation of mount", err)
	}
	switch {
	case slices.Contains(m.Options, "rro"):
		return readOnly(target, unix.AT_RECURSIVE)
	case slices.Contains(m.Options, "ro"):
		return readOnly(target, 0)
	}
	return nil
}

// readOnly makes a mount read-only, and with AT_RECURSIVE every one below.
func readOnly(target string, flags uint) error {
	err := unix.MountSetattr(unix.AT_FDCWD, target, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) && flags == 0 { // Linux before 5.12
		var fs unix.Statfs_t
		if err := unix.Statfs(target, &fs); err != nil {
			return err
		}
		keep := uintptr(fs.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
		err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, "")
	}
	if err != nil {
		return fmt.Errorf("make mount read-only: %w", err)
	}
	return nil
}

// Unmount removes the directory of a share that nobody uses any more, and unmounts
// what a shim of an earlier version left there. Nothing need be there.
func Unmount(dir string) error { return errors.Join(unmountAll(staging(dir)), unmountAll(dir)) }

// unmountAll unmounts a path and everything below it, and removes the mount points.
func unmountAll(path string) error {
	mounts, err := mountsBelow(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		// A guest that looked at a file keeps virtiofsd using its mount. One that went
		// with another is not found.
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	if mounts, err = mountsBelow(path); err == nil && len(mounts) > 0 {
		err = fmt.Errorf("%s is still mounted", mounts[0].Mountpoint)
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return err // removing would reach through to the sources
	}
	return removeEmpty(path)
}

func mountsBelow(path string) ([]*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return nil, fmt.Errorf("mounts below %s: %w", path, err)
	}
	return mounts, nil
}

// removeEmpty removes a mount point and those in it: empty directories and empty
// files. Anything that holds data is not ours and stays, as an error.
func removeEmpty(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir() && info.Size() > 0:
		return fmt.Errorf("%s is not empty", path)
	case info.IsDir():
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := removeEmpty(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(path)
}
