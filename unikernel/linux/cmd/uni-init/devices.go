package main

import (
	"os"

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
	if err := write("devices.deny", "a"); err != nil {
		return err
	}
	for _, rule := range deviceRules(c.Devices) {
		if err := write("devices.allow", rule); err != nil {
			return err
		}
	}
	// One below, which is what the container sees as the top: a process that may
	// mount it cannot allow itself more than the one above.
	if err := os.Mkdir(dir+"/app", 0o700); err != nil {
		return err
	}
	return write("app/tasks", "0") // this thread
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
			rules = append(rules, kind+formatUint(uint64(d.Major))+":"+formatUint(uint64(d.Minor))+" rwm")
		}
	}
	return rules
}
