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

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Tree is the directory of a machine's share. Mounts come and go in it while the
// machine runs. Its methods may be called concurrently.
type Tree struct {
	dir  string
	last atomic.Int64 // number of the group that was added last
}

// New makes dir the directory of a share. It is a mount of its own from which
// other mounts propagate, and has to be that before virtiofsd starts: virtiofsd
// has a mount namespace of its own, whose mounts are slaves of these.
func New(dir string) (*Tree, error) {
	for at, kinds := range map[string][]uintptr{dir: {unix.MS_PRIVATE, unix.MS_SHARED}, staging(dir): {unix.MS_PRIVATE}} {
		if err := ownMount(at, kinds); err != nil {
			return nil, errors.Join(fmt.Errorf("directory of the share: %w", err), Unmount(dir))
		}
	}
	return &Tree{dir: dir}, nil
}

// staging is a directory beside the share that nobody else sees. A mount is made
// what it shall be there: virtiofsd would have a copy of one that it sees, which
// stays as it was.
func staging(dir string) string { return dir + ".staging" }

// ownMount makes a directory that is a mount of its own.
func ownMount(dir string, kinds []uintptr) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
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
	dir    string
}

// Add mounts the shares of a container, as Plan names them, in a directory of its
// own. No other has had its name: a guest may remember that a name was not there,
// or what was there.
func (t *Tree) Add(shares []unikernel.SharedMount) (*Group, error) {
	name := strconv.FormatInt(t.last.Add(1), 10)
	g := &Group{dir: filepath.Join(t.dir, name), Shares: slices.Clone(shares)}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, err
	}
	for i, s := range shares {
		if err := t.mount(g, s); err != nil {
			return nil, errors.Join(fmt.Errorf("share %s as %s: %w", s.Mount.Source, s.Mount.Destination, err), g.Remove())
		}
		g.Shares[i].Name = filepath.Join(name, s.Name)
	}
	return g, nil
}

// Remove takes the shares away again, after the guest has unmounted them. It can
// be repeated.
func (g *Group) Remove() error { return unmountAll(g.dir) }

func (t *Tree) mount(g *Group, s unikernel.SharedMount) error {
	top, _, deep := strings.Cut(s.Name, "/")
	if deep {
		if !strings.HasPrefix(top, fileDir) {
			return nil // it is part of another
		}
		if err := filePlace(filepath.Join(g.dir, top)); err != nil {
			return err
		}
	}
	return t.bind(g, s)
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

// bind makes one mount in the staging directory, and moves it to its place when
// its propagation, and that it is read-only, are settled.
func (t *Tree) bind(g *Group, s unikernel.SharedMount) error {
	info, err := os.Stat(s.Mount.Source)
	if err != nil {
		return err
	}
	target, stage := filepath.Join(g.dir, s.Name), filepath.Join(staging(t.dir), filepath.Base(g.dir))
	if err := mountPoint(target, info.IsDir()); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil // another mount of the same source
		}
		return err
	}
	if err := mountPoint(stage, info.IsDir()); err != nil {
		return err
	}
	err = stageMount(stage, s.Mount)
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

// stageMount makes a bind mount as its options want it.
func stageMount(target string, m specs.Mount) error {
	flags := uintptr(unix.MS_BIND)
	if recursive(m) {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(m.Source, target, "", flags, ""); err != nil {
		return os.NewSyscallError("bind mount", err)
	}
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

// Unmount takes away the share of dir with all that is mounted there, and removes
// the directory. Nothing need be there.
func Unmount(dir string) error { return errors.Join(unmountAll(staging(dir)), unmountAll(dir)) }

// unmountAll unmounts a path and everything below it, and removes the mount points.
func unmountAll(path string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", path, err)
	}
	var errs []error
	for _, m := range slices.Backward(mounts) { // what was mounted last goes first
		// A guest that looked at a file keeps virtiofsd using its mount.
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // removing would reach through to the sources
	}
	return removeEmpty(path)
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
