package main

import (
	"os"
	"strings"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

const cgroupTop = "/sys/fs/cgroup"

// mountCgroups makes cgroups, version 2, available. A controller that the kernel
// lacks is done without; who needs it is told later.
func mountCgroups() error {
	if err := unix.Mount("cgroup2", cgroupTop, "cgroup2", 0, ""); err != nil {
		return pathError("mount", cgroupTop, err)
	}
	for _, controller := range []string{"+cpu", "+io", "+memory", "+pids"} {
		os.WriteFile(cgroupTop+"/cgroup.subtree_control", []byte(controller), 0)
	}
	return nil
}

// cgroup is that of a container's processes: what its limits hold for, and what is
// counted for it. The processes see it as the top and cannot leave it.
type cgroup struct {
	name string // below cgroupTop, with a slash in front
	fd   int    // its directory
	gone bool   // it is removed
}

// makeCgroup makes the cgroup of the container with that id.
func makeCgroup(id uint32) (*cgroup, error) {
	g := &cgroup{name: "/container-" + formatUint(uint64(id))}
	if err := os.Mkdir(g.file(""), 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.Open(g.file(""), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open", g.file(""), err)
	}
	g.fd = fd
	return g, nil
}

// file is the path of one of its files.
func (g *cgroup) file(name string) string { return cgroupTop + g.name + "/" + name }

func (g *cgroup) write(name, text string) error {
	return os.WriteFile(g.file(name), []byte(text), 0)
}

// limit sets limits of the container.
func (g *cgroup) limit(l wire.Limits) error {
	for name, text := range limitFiles(l) {
		if err := g.write(name, text); err != nil {
			return wrap("the guest's kernel takes no such limit", err)
		}
	}
	return nil
}

// limitFiles are the files that limits are written to, and what
// (Documentation/admin-guide/cgroup-v2.rst of the kernel).
func limitFiles(l wire.Limits) map[string]string {
	files := map[string]string{}
	limit := func(n uint64) string {
		if n == 0 {
			return "max"
		}
		return formatUint(n)
	}
	if l.Memory != nil {
		files["memory.max"] = limit(*l.Memory)
	}
	if l.Pids != nil {
		files["pids.max"] = limit(*l.Pids)
	}
	if l.CPU != nil {
		files["cpu.max"] = limit(l.CPU.Quota)
		if l.CPU.Period > 0 {
			files["cpu.max"] += " " + formatUint(l.CPU.Period)
		}
		if l.CPU.Weight > 0 {
			files["cpu.weight"] = formatUint(l.CPU.Weight)
		}
	}
	return files
}

// statsFiles are what is read of a container's cgroup.
var statsFiles = []string{
	"cpu.stat", "io.stat", "memory.current", "memory.events", "memory.max", "memory.peak", "memory.stat", "pids.current", "pids.max",
}

// stats reads what the kernel counted. Nothing of it is looked at here.
func (g *cgroup) stats() wire.Stats {
	var s wire.Stats
	for _, name := range statsFiles {
		if b, err := os.ReadFile(g.file(name)); err == nil {
			s.Files = append(s.Files, [2]string{name, string(b)})
		}
	}
	b, _ := os.ReadFile("/proc/net/dev") // without it there are no interfaces to tell of
	s.Network = string(b)
	return s
}

// refusals is the kernel's count of processes and threads that the limit refused;
// it is there to be compared with an earlier one.
func (g *cgroup) refusals() string {
	text, _ := os.ReadFile(g.file("pids.events")) // a kernel without the controller refuses none
	return string(text)
}

// event tells whether a line is in cgroup.events. A cgroup that is gone has none.
func (g *cgroup) event(line string) bool {
	events, err := os.ReadFile(g.file("cgroup.events"))
	return err == nil && strings.Contains(string(events), line)
}

// killTimeout is how long the processes of a container that is removed may take to
// end. Those that wait for a disk or for the host end when they have been served.
const killTimeout = 10 * time.Second

// empty ends all processes and returns when the last one is gone.
func (g *cgroup) empty() error {
	if err := g.write("cgroup.kill", "1"); err != nil {
		return err
	}
	if !waitFor(killTimeout, func() bool { return !g.event("populated 1") }) {
		return &failure{wire.CodeInternal, "processes of the container do not end: they wait for a disk or for a shared directory"}
	}
	return nil
}

// remove removes it, empty as it is, with those that the container made below it.
func (g *cgroup) remove() error {
	if g.gone {
		return nil
	}
	if err := removeCgroups(cgroupTop + g.name); err != nil {
		return err
	}
	unix.Close(g.fd)
	g.gone = true
	return nil
}

func removeCgroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroups(dir + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}
