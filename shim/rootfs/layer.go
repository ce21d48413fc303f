package rootfs

import (
	"path/filepath"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/v2/core/mount"
)

// homeName is the directory beside an overlay's upper directory that is ours. A
// snapshotter removes the directory that holds both with the snapshot.
const homeName = "uni"

// split takes the container's own layer off the mounts of an overlay: it returns
// the layer, and the mounts of what is below. It returns nil for other mounts, and
// for an overlay that does more than to stack plain directories.
func split(all []mount.Mount) (*unikernel.Layer, []mount.Mount) {
	if len(all) != 1 || all[0].Type != "overlay" || all[0].Target != "" {
		return nil, nil
	}
	var upper, work string
	var lowers, others []string
	for _, o := range all[0].Options {
		name, value, _ := strings.Cut(o, "=")
		switch name {
		case "lowerdir":
			lowers = strings.Split(value, ":")
			if strings.Contains(value, `\`) || slices.ContainsFunc(lowers, func(d string) bool { return !filepath.IsAbs(d) }) {
				return nil, nil // escaped colons, data-only layers (an empty name), names relative to something
			}
		case "upperdir":
			upper = value
		case "workdir":
			work = value
		case "uidmap", "gidmap":
			return nil, nil // owners differ from those on disk
		default:
			others = append(others, o)
		}
	}
	// Of the snapshotters that have both in one directory it is the snapshot's.
	home := filepath.Dir(upper)
	if !filepath.IsAbs(upper) || filepath.Dir(work) != home || filepath.Base(work) == homeName || filepath.Base(upper) == homeName || len(lowers) == 0 {
		return nil, nil
	}
	return &unikernel.Layer{Upper: upper, Home: filepath.Join(home, homeName)}, below(lowers, others)
}

// below mounts directories read-only, topmost first.
func below(lowers, options []string) []mount.Mount {
	if len(lowers) == 1 {
		return []mount.Mount{{Type: "bind", Source: lowers[0], Options: []string{"ro", "rbind"}}}
	}
	options = slices.DeleteFunc(slices.Clone(options), func(o string) bool { return o == "volatile" || strings.HasPrefix(o, "index=") })
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, "ro", "lowerdir="+strings.Join(lowers, ":"))}}
}

// layersBelow returns the directories of mounts that below made.
func layersBelow(all []mount.Mount) []string {
	for _, o := range all[0].Options {
		if value, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return strings.Split(value, ":")
		}
	}
	return []string{all[0].Source}
}
