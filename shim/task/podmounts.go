package task

import (
	"slices"

	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/shim/volume"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// commonDestinations are where the containers of a pod have the same: files that are
// made for the pod, and its shared memory. containerd's controller "podsandbox" mounts
// them in each container by itself; with the sandbox API that is the shim's part.
var commonDestinations = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", devShm}

const devShm = "/dev/shm"

// commonMounts returns those of a pod's own mounts that its containers have too. The
// source of a tmpfs is a directory that stands for it: it is the machine's, and one for
// all of them.
func commonMounts(mounts []specs.Mount, volumes *volume.Set) (common []specs.Mount) {
	for _, m := range mounts {
		switch {
		case !slices.Contains(commonDestinations, m.Destination):
			continue
		case m.Type == "tmpfs":
			volumes.Memory(m.Source, m.Options)
			m.Type, m.Options = "bind", []string{"rbind", "rprivate", "nosuid", "nodev", "noexec"}
		case share.IsBind(m): // as a container of the pod has it, and not the program that does not run
			m.Options = []string{"rbind", "rprivate"}
		default:
			continue
		}
		common = append(common, m)
	}
	return common
}

// mountsOf returns the mounts of one of the pod's containers, with those that are the
// pod's where it has nothing else. The tmpfs at /dev/shm that every specification of
// containerd begins with is nothing else.
func (p *pod) mountsOf(spec *specs.Spec) []specs.Mount {
	mounts := slices.Clone(spec.Mounts)
	for _, m := range p.mounts {
		if p.hollow && m.Destination == devShm {
			continue // a container's machine has its own
		}
		if m.Destination != devShm && spec.Root != nil && spec.Root.Readonly {
			m.Options = append(slices.Clone(m.Options), "ro")
		}
		at := slices.IndexFunc(mounts, func(o specs.Mount) bool { return o.Destination == m.Destination })
		switch {
		case at < 0:
			mounts = append(mounts, m)
		case m.Destination == devShm && mounts[at].Type == "tmpfs":
			mounts[at] = m
		}
	}
	return mounts
}
