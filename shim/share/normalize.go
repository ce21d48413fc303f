package share

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Normalize returns a specification's mounts as a machine can have them. A
// destination that is not absolute is one below the root, as with other
// runtimes. /dev/shm is the machine's own, of the size of the file system that
// the client made for it on the host: memory of the host's cannot be shared
// with a guest. The root is no destination: unikernel.ErrNotImplemented.
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
		if mounts[i].Destination == "/dev/shm" && isBind(m) {
			own, err := ownMemory(m)
			if err != nil {
				return nil, fmt.Errorf("mount of %s on %s: %w", m.Source, m.Destination, err)
			}
			own.Destination = mounts[i].Destination
			mounts[i] = own
		}
	}
	return mounts, nil
}

// ownMemory returns a tmpfs in place of one of the host's that was made for the
// container; other mounts stay what they are, the host's own /dev/shm too.
func ownMemory(m specs.Mount) (specs.Mount, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(m.Source, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || path.Clean(m.Source) == "/dev/shm" {
		return m, nil // what is wrong with it shows when it is shared
	}
	mounted, err := mountinfo.Mounted(m.Source)
	if err != nil || !mounted {
		return m, err
	}
	var st unix.Stat_t
	if err := unix.Stat(m.Source, &st); err != nil {
		return m, err
	}
	options := []string{"nosuid", "nodev", "noexec"}
	if slices.Contains(m.Options, "ro") {
		options = append(options, "ro")
	}
	options = append(options, fmt.Sprintf("mode=%o", st.Mode&0o7777))
	if fs.Blocks > 0 { // else it has no limit
		options = append(options, fmt.Sprintf("size=%d", fs.Blocks*uint64(fs.Bsize)))
	}
	return specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "shm", Options: options}, nil
}
