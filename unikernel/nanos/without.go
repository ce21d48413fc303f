package nanos

import (
	"fmt"
	"slices"

	"containerd-shim-uni/unikernel/watch"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// without lists what the program does not get: the kernel has a name for its
// host only in the file that clients mount.
func without(s *specs.Spec) []string {
	list := watch.Without(s)
	named := func(m specs.Mount) bool { return m.Destination == "/etc/hostname" }
	if s.Hostname != "" && !slices.ContainsFunc(s.Mounts, named) {
		list = append(list, "host name "+s.Hostname)
	}
	return list
}

// guestDevices are the paths of the devices that the kernel has.
var guestDevices = []string{"/dev/null", "/dev/urandom"}

// checkDevices refuses devices that the kernel does not have: a program would
// not find them.
func checkDevices(list []specs.LinuxDevice) error {
	for _, d := range list {
		if !slices.Contains(guestDevices, d.Path) {
			return refuse(fmt.Sprintf("no device %s (and no --privileged)", d.Path))
		}
	}
	return nil
}
