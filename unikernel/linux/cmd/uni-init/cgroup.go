package main

import (
	"os"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

const (
	cgroupTop = "/sys/fs/cgroup"
	// cgroupDir is the cgroup of the container's processes: what its limits hold
	// for, and what is counted for it.
	cgroupDir = cgroupTop + "/container"
)

// makeCgroup makes the container's cgroup and returns its directory, open. A
// controller that the kernel lacks is done without; who needs it is told later.
func makeCgroup() (fd int, err error) {
	if err := unix.Mount("cgroup2", cgroupTop, "cgroup2", 0, ""); err != nil && err != unix.EBUSY {
		return -1, pathError("mount", cgroupTop, err)
	}
	for _, controller := range []string{"+cpu", "+io", "+memory", "+pids"} {
		os.WriteFile(cgroupTop+"/cgroup.subtree_control", []byte(controller), 0)
	}
	if err := os.Mkdir(cgroupDir, 0o755); err != nil {
		return -1, err
	}
	fd, err = unix.Open(cgroupDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, pathError("open", cgroupDir, err)
}

// limit sets limits of the container.
func limit(l wire.Limits) error {
	for _, f := range []struct {
		name  string
		value *uint64
	}{{"memory.max", l.Memory}, {"pids.max", l.Pids}} {
		if f.value == nil {
			continue
		}
		text := "max"
		if *f.value > 0 {
			text = formatUint(*f.value)
		}
		if err := os.WriteFile(cgroupDir+"/"+f.name, []byte(text), 0); err != nil {
			return wrap("the guest's kernel takes no such limit", err)
		}
	}
	return nil
}

// statsFiles are what is read of the container's cgroup.
var statsFiles = []string{
	"cpu.stat", "io.stat", "memory.current", "memory.events", "memory.max", "memory.peak", "memory.stat", "pids.current", "pids.max",
}

// stats reads what the kernel counted. Nothing of it is looked at here.
func stats() wire.Stats {
	var s wire.Stats
	for _, name := range statsFiles {
		if b, err := os.ReadFile(cgroupDir + "/" + name); err == nil {
			s.Files = append(s.Files, [2]string{name, string(b)})
		}
	}
	b, _ := os.ReadFile("/proc/net/dev") // without it there are no interfaces to tell of
	s.Network = string(b)
	return s
}
