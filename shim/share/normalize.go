package share

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Normalize returns a specification's mounts as a machine can have them. A
// destination that is not absolute is one below the root, as with other
// runtimes. The root is no destination: unikernel.ErrNotImplemented.
func Normalize(mounts []specs.Mount) ([]specs.Mount, error) {
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		if strings.Trim(m.Destination, " ") == "" {
			return nil, fmt.Errorf("%w: a mount of %q has no destination", unikernel.ErrInvalid, m.Source)
		}
		mounts[i].Destination = path.Join("/", m.Destination)
		if mounts[i].Destination == "/" {
			return nil, fmt.Errorf("%w: a mount of %s on /: the root is a disk of the machine's; mount on a directory below it, or make an image of the files",
				unikernel.ErrNotImplemented, m.Source)
		}
	}
	return mounts, nil
}

// OwnMemory gives a machine of one container a /dev/shm of its own, of the size of
// the file system that the client made for it on the host: memory of the host's
// cannot be shared with a guest. The mounts are normalized.
func OwnMemory(mounts []specs.Mount) ([]specs.Mount, error) {
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		if m.Destination != "/dev/shm" || !IsBind(m) {
			continue
		}
		own, err := ownMemory(m)
		if err != nil {
			return nil, fmt.Errorf("mount of %s on %s: %w", m.Source, m.Destination, err)
		}
		mounts[i] = own
	}
	return mounts, nil
}

// ownMemory returns a tmpfs in place of one of the host's that was made for the
// container; other mounts stay what they are, the host's own /dev/shm too.
func ownMemory(m specs.Mount) (specs.Mount, error) {
	if path.Clean(m.Source) == "/dev/shm" {
		return m, nil
	}
	options, ok, err := Memory(m.Source)
	if err != nil || !ok {
		return m, err
	}
	for _, flag := range memoryFlags {
		if !slices.Contains(options, flag) {
			options = append(options, flag)
		}
	}
	if slices.Contains(m.Options, "ro") {
		options = append(options, "ro")
	}
	return specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "shm", Options: options}, nil
}

// memoryFlags are the flags of a mount that say what may be done with its files.
var memoryFlags = []string{"nosuid", "nodev", "noexec"}

// Memory returns the options with which a tmpfs is as the one that is mounted at path.
// It is not ok if none is.
func Memory(path string) (options []string, ok bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		return nil, false, nil // what is wrong with it shows when it is shared
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, false, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(mounts) == 0 {
		return nil, false, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, false, err
	}
	for flag := range strings.SplitSeq(mounts[0].Options, ",") {
		if slices.Contains(memoryFlags, flag) {
			options = append(options, flag)
		}
	}
	options = append(options, fmt.Sprintf("mode=%o", st.Mode&0o7777), fmt.Sprintf("uid=%d", st.Uid), fmt.Sprintf("gid=%d", st.Gid))
	if fs.Blocks > 0 { // else it has no limit
		options = append(options, fmt.Sprintf("size=%d", fs.Blocks*uint64(fs.Bsize)))
	}
	return options, true, nil
}
