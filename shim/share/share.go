package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Plan returns the bind mounts among a specification's mounts, named for the
// shared directory. It returns unikernel.ErrNotImplemented for a source that
// cannot be shared and ErrInvalid for one that does not exist.
func Plan(mounts []specs.Mount) ([]unikernel.SharedMount, error) {
	var shares []unikernel.SharedMount
	for _, m := range mounts {
		if !isBind(m) {
			continue
		}
		info, err := check(m.Source)
		if err != nil {
			return nil, fmt.Errorf("bind mount %s: %w", m.Destination, err)
		}
		s := unikernel.SharedMount{Mount: m, Name: strconv.Itoa(len(shares)), Dir: info.IsDir()}
		if info.Mode().IsRegular() {
			s.Size = info.Size()
		}
		shares = append(shares, s)
	}
	return shares, nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// check refuses a source that is no data that a guest can use.
func check(source string) (os.FileInfo, error) {
	path, err := filepath.EvalSymlinks(source)
	if err != nil {
		return nil, fmt.Errorf("%w: source: %w", unikernel.ErrInvalid, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: source: %w", unikernel.ErrInvalid, err)
	}
	if what := unshareable(path, info.Mode()); what != "" {
		return nil, fmt.Errorf("%w: source %s is %s: it works only on the host's kernel, and a machine has its own; leave the mount out",
			unikernel.ErrNotImplemented, source, what)
	}
	return info, nil
}

func unshareable(path string, mode os.FileMode) string {
	switch {
	case mode&os.ModeSocket != 0:
		return "a socket"
	case mode&os.ModeDevice != 0:
		return "a device"
	case mode&os.ModeNamedPipe != 0:
		return "a fifo"
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		rest, below := strings.CutPrefix(path, dir)
		// Below /dev/shm are ordinary files.
		if below && (rest == "" || rest[0] == '/') && !strings.HasPrefix(path, "/dev/shm/") {
			return "part of the host's " + dir
		}
	}
	return ""
}

// Mount mounts every share below dir, a directory it makes.
func Mount(dir string, shares []unikernel.SharedMount) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, s := range shares {
		if err := bind(filepath.Join(dir, s.Name), s.Mount); err != nil {
			return errors.Join(fmt.Errorf("share %s as %s: %w", s.Mount.Source, s.Mount.Destination, err), Unmount(dir))
		}
	}
	return nil
}

func bind(target string, m specs.Mount) error {
	info, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND)
	if !slices.Contains(m.Options, "bind") { // "rbind", or type bind alone
		flags |= unix.MS_REC
	}
	if err := unix.Mount(m.Source, target, "", flags, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	// Private, so that unmounting here does not unmount at the source.
	if err := unix.Mount("", target, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mount private: %w", err)
	}
	if slices.Contains(m.Options, "ro") {
		return readOnly(target)
	}
	return nil
}

// readOnly makes target and every mount below it read-only.
func readOnly(target string) error {
	err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if errors.Is(err, unix.ENOSYS) { // Linux before 5.12: the topmost only
		err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("make mount read-only: %w", err)
	}
	return nil
}

// Unmount unmounts everything below dir and removes it. Nothing need be there.
func Unmount(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("mounts below %s: %w", dir, err)
	}
	var errs []error
	for _, m := range slices.Backward(mounts) { // what was mounted last goes first
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // removing would reach through to the sources
	}
	return removeEmpty(dir)
}

// removeEmpty removes dir and the mount points in it: empty directories and
// empty files. Anything that holds data is not ours and stays, as an error.
func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if !info.IsDir() && info.Size() > 0 {
			return fmt.Errorf("%s is not empty", path)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}
