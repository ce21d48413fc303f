package main

import (
	"os"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// Containers of a machine are kept from its devices, such as the disks of others and
// the console, by cgroups of version 1: a device that a process's cgroup does not
// allow it cannot open, however it came to the node, root or not.

// devicesTop is where they are mounted, which no container sees.
const devicesTop = "/devices"

func mountDevices() error {
	if err := os.Mkdir(devicesTop, 0o700); err != nil {
		return err
	}
	return pathError("mount (the kernel and this initrd are of different builds)", devicesTop,
		unix.Mount("devices", devicesTop, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "devices"))
}

// devicesGroup is the directory of a container's.
func devicesGroup(id uint32) string { return devicesTop + "/" + formatUint(uint64(id)) }

// allowDevices lets what is forked from the calling thread from now on open the
// container's devices and no other. It does so for the thread itself: what that has
// to mount of disks, it has mounted.
func allowDevices(c *wire.Container) error {
	dir := devicesGroup(c.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	write := func(name, text string) error { return os.WriteFile(dir+"/"+name, []byte(text), 0) }
	if ownsDevices(c) {
		denied, err := runtimeDevices()
		if err != nil {
			return err
		}
		for _, kind := range []byte{'b', 'c'} {
			for _, major := range denied[kind] {
				if err := write("devices.deny", string(kind)+" "+formatUint(uint64(major))+":* rw"); err != nil {
					return err
				}
			}
		}
	} else {
		if err := write("devices.deny", "a"); err != nil {
			return err
		}
		for _, rule := range deviceRules(c.Devices) {
			if err := write("devices.allow", rule); err != nil {
				return err
			}
		}
	}
	// One below, which is what the container sees as the top: a process that may
	// mount it cannot allow itself more than the one above.
	if err := os.Mkdir(dir+"/app", 0o700); err != nil {
		return err
	}
	return write("app/tasks", "0") // this thread
}

// ownsDevices says whether the container has all devices of the machine that are not
// the runtime's.
func ownsDevices(c *wire.Container) bool {
	return slices.ContainsFunc(c.Devices, func(d wire.Device) bool { return d.Type == wire.AllDevices })
}

// runtimeDrivers are those of devices that the runtime itself works with, as
// /proc/devices names them: disks of containers, the channel to the host, the console.
var runtimeDrivers = []string{"sd", "virtblk", "virtio-portsdev", "ttyS"}

// runtimeDevices are the major numbers of these, by 'b' and 'c'.
func runtimeDevices() (map[byte][]uint32, error) {
	text, err := os.ReadFile("/proc/devices")
	if err != nil {
		return nil, err
	}
	return parseDevices(string(text)), nil
}

// parseDevices finds the runtimeDrivers in the text of /proc/devices: a headline for
// each kind of device, then a major number and a name on each line.
func parseDevices(text string) map[byte][]uint32 {
	majors := map[byte][]uint32{}
	kind := byte('c')
	for line := range strings.Lines(text) {
		number, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number == "Block" {
			kind = 'b'
		}
		if major, ok := parseUint(number); ok && slices.Contains(runtimeDrivers, name) {
			majors[kind] = append(majors[kind], major)
		}
	}
	return majors
}

// loops is how many loop devices a container finds that has the machine's: losetup(8)
// wants the node of one that the kernel makes when it is asked for.
const loops = 8

// ownDevices are the nodes of the machine's devices that are not the runtime's. It
// reads the machine's /dev.
func ownDevices() ([]wire.Device, error) {
	denied, err := runtimeDevices()
	if err != nil {
		return nil, err
	}
	var list []wire.Device
	for n := range uint32(loops) {
		list = append(list, wire.Device{Path: "/dev/loop" + formatUint(uint64(n)), Type: 'b', Major: 7, Minor: n, Mode: 0o660}) // devices.txt
	}
	return appendNodes(list, "/dev", denied)
}

// appendNodes adds the nodes below a directory of the machine's.
func appendNodes(list []wire.Device, dir string, denied map[byte][]uint32) ([]wire.Device, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return list, err
	}
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if e.IsDir() {
			if list, err = appendNodes(list, path, denied); err != nil {
				return list, err
			}
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue // it has just gone
		}
		d := wire.Device{Path: path, Type: 'c', Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Mode: st.Mode & 0o777}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
		case unix.S_IFBLK:
			d.Type = 'b'
		default:
			continue
		}
		isConsole := d.Type == 'c' && d.Major == 5 // a container's are its own: tty, console, ptmx
		if !isConsole && !slices.Contains(denied[d.Type], d.Major) {
			list = append(list, d)
		}
	}
	return list, nil
}

// removeDevices removes the container's group. The thread was told to end.
func removeDevices(id uint32) error {
	var err error
	waitFor(killTimeout, func() bool {
		err = removeCgroups(devicesGroup(id))
		return err == nil || os.IsNotExist(err)
	})
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// deviceRules are what a container may open: the default nodes, terminals and what
// its specification lists. It may make nodes of all devices, as under runc.
func deviceRules(listed []wire.Device) []string {
	rules := []string{"c *:* m", "b *:* m", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm"} // devices.txt: console, ptmx, pts
	for _, devices := range [][]wire.Device{defaultDevices, listed} {
		for _, d := range devices {
			kind := "c "
			switch d.Type {
			case 'b':
				kind = "b "
			case 'p':
				continue
			}
			rights := " rwm"
			if d.ReadOnly {
				rights = " rm"
			}
			rules = append(rules, kind+formatUint(uint64(d.Major))+":"+formatUint(uint64(d.Minor))+rights)
		}
	}
	return rules
}
