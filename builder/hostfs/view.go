package hostfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// View returns a path at which a file or directory is seen as by a bind mount
// of it: with what is mounted below it, or with what is hidden by that. The
// path is good until close is called.
func View(source string, recursive bool) (path string, close func() error, err error) {
	path, err = filepath.EvalSymlinks(source)
	if err != nil {
		return "", nil, err
	}
	nothing := func() error { return nil }
	if recursive {
		return path, nothing, nil
	}
	below, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, strings.TrimSuffix(path, "/")+"/"), false
	})
	if err != nil {
		return "", nil, fmt.Errorf("mounts below %s: %w", path, err)
	}
	if len(below) == 0 {
		return path, nothing, nil
	}
	// A copy of the one mount that is in no tree: it goes with its descriptor.
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return ofDescriptor(fd), func() error { return unix.Close(fd) }, nil
}
