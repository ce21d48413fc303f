package rootfs

import (
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/api/types"
)

// Open mounts the root file system at target, to be written to. Without mounts the
// files are there already.
func Open(mounts []*types.Mount, target string) (dir string, close func() error, err error) {
	if len(mounts) == 0 {
		return target, func() error { return nil }, nil
	}
	return open(convert(mounts), target)
}

// ReadOnly says that nothing can be written to the root file system.
func ReadOnly(mounts []*types.Mount) bool {
	return slices.ContainsFunc(mounts, func(m *types.Mount) bool { return m.Target == "" && slices.Contains(m.Options, "ro") })
}

// Sources are the files of the host that the root file system is in: it is gone
// when one of them is.
func Sources(mounts []*types.Mount, target string) []string {
	if len(mounts) == 0 {
		return []string{target}
	}
	var all []string
	for _, m := range mounts {
		if filepath.IsAbs(m.Source) {
			all = append(all, m.Source)
		}
		if layer, _ := split(convert([]*types.Mount{m})); layer != nil {
			all = append(all, layer.Upper)
		}
	}
	return all
}
