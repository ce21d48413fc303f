package linux

import (
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// guestDevices are the character devices that mean the same in every kernel
// and that this one has; numbers from the kernel's devices.txt.
var guestDevices = map[[2]int64]bool{
	{1, 3}: true, {1, 5}: true, {1, 7}: true, {1, 8}: true, {1, 9}: true, {1, 11}: true, // null zero full random urandom kmsg
	{5, 0}: true, {5, 1}: true, {5, 2}: true, // tty console ptmx
	{10, 229}: true, // fuse
}

// inGuest says whether a device of a specification, which are the host's, is also
// one of the machine's.
func inGuest(d specs.LinuxDevice) bool {
	return d.Type == "p" || d.Type != "b" && guestDevices[[2]int64{d.Major, d.Minor}]
}

// checkDevices refuses devices that the machine does not have. A container that may
// have all is not refused for them: it gets those of its machine.
func checkDevices(l *specs.Linux) error {
	all := allDevices(l.Resources)
	for _, d := range l.Devices {
		if !strings.HasPrefix(d.Path, "/") {
			return fmt.Errorf("%w: device path %q is not absolute", unikernel.ErrInvalid, d.Path)
		}
		switch d.Type {
		case "c", "u", "b", "p":
		default:
			return fmt.Errorf("%w: device %s has type %q", unikernel.ErrInvalid, d.Path, d.Type)
		}
		if read, _ := access(l.Resources, d); !all && d.Type == "b" && read {
			continue // it becomes a disk
		}
		if !all && !inGuest(d) {
			return refuse(fmt.Sprintf("device %s (%s %d:%d)", d.Path, d.Type, d.Major, d.Minor),
				"it is the host's and the machine has no such device, and only block devices that may be read become disks of it; run the container without it, or with --privileged for all of the machine's own")
		}
	}
	return nil
}

// blockDevices are those of the host that become disks of the machine. A container that
// may have all of the machine's gets none of the host's.
func blockDevices(l *specs.Linux) (list []specs.LinuxDevice) {
	if l == nil || allDevices(l.Resources) {
		return nil
	}
	for _, d := range l.Devices {
		if d.Type == "b" {
			list = append(list, d)
		}
	}
	return list
}

// access says what a container may do with a device: the last of the rules that are
// about it and a right decides.
func access(r *specs.LinuxResources, d specs.LinuxDevice) (read, write bool) {
	if r == nil {
		return false, false
	}
	meets := func(n *int64, is int64) bool { return n == nil || *n < 0 || *n == is }
	for _, rule := range r.Devices {
		if rule.Type != "" && rule.Type != "a" && rule.Type != d.Type || !meets(rule.Major, d.Major) || !meets(rule.Minor, d.Minor) {
			continue
		}
		if rule.Access == "" || strings.Contains(rule.Access, "r") {
			read = rule.Allow
		}
		if rule.Access == "" || strings.Contains(rule.Access, "w") {
			write = rule.Allow
		}
	}
	return read, write
}

// allDevices says whether a container may open every device, as a privileged one
// may: the last of the rules that are about all of them allows it.
func allDevices(r *specs.LinuxResources) bool {
	if r == nil {
		return false
	}
	any := func(n *int64) bool { return n == nil || *n < 0 }
	all := false
	for _, d := range r.Devices {
		if (d.Type == "" || d.Type == "a") && any(d.Major) && any(d.Minor) && strings.Contains(d.Access, "r") && strings.Contains(d.Access, "w") {
			all = d.Allow
		}
	}
	return all
}

// hostDevices names the devices of the host that a container does not get, which may
// have all of the machine's instead.
func hostDevices(l *specs.Linux) []string {
	var first string
	n := 0
	if !allDevices(l.Resources) { // there are none: checkDevices
		return nil
	}
	for _, d := range l.Devices {
		if inGuest(d) {
			continue
		}
		if n++; n == 1 {
			first = d.Path
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return []string{"the host's device " + first + ": it has those of its machine"}
	}
	return []string{fmt.Sprintf("the host's devices, %s and %d others: it has those of its machine", first, n-1)}
}

// devices makes the wire's form of a container's devices.
func devices(l *specs.Linux) []wire.Device {
	var list []wire.Device
	for _, d := range l.Devices {
		if inGuest(d) {
			list = append(list, device(d))
		}
	}
	if allDevices(l.Resources) {
		list = append(list, wire.Device{Type: wire.AllDevices})
	}
	return list
}

func device(d specs.LinuxDevice) wire.Device {
	w := wire.Device{Path: d.Path, Type: d.Type[0], Major: uint32(d.Major), Minor: uint32(d.Minor), Mode: 0o666}
	if d.FileMode != nil {
		w.Mode = uint32(d.FileMode.Perm())
	}
	if d.UID != nil {
		w.UID = *d.UID
	}
	if d.GID != nil {
		w.GID = *d.GID
	}
	return w
}
