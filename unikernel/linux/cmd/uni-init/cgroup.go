package main

import (
	"os"
	"strings"
	"sync"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// cgroupTop has uni-init in it, containersTop below it all containers.
const cgroupTop, containersTop = "/sys/fs/cgroup", "/sys/fs/cgroup/containers"

// controllers are turned on one by one: one that the kernel lacks is done without, and
// who needs it is told later.
var controllers = []string{"+cpu", "+cpuset", "+hugetlb", "+io", "+memory", "+pids"}

// mountCgroups makes cgroups, version 2, available. With nsdelegate a container that may
// have cgroups of its own cannot change its limits, which are those of what it sees as
// the top. With favordynmods it does not take a tick of the kernel's clock and more to
// move a process.
func mountCgroups() error {
	err := unix.Mount("cgroup2", cgroupTop, "cgroup2", 0, "nsdelegate,favordynmods")
	if err == error(unix.EINVAL) { // before Linux 6.0
		err = unix.Mount("cgroup2", cgroupTop, "cgroup2", 0, "nsdelegate")
	}
	if err != nil {
		return pathError("mount", cgroupTop, err)
	}
	divide(cgroupTop)
	if err := os.Mkdir(containersTop, 0o755); err != nil {
		return err
	}
	divide(containersTop)
	return nil
}

// divide lets the cgroups below one have limits and counters of their own.
func divide(dir string) {
	for _, c := range controllers {
		os.WriteFile(dir+"/cgroup.subtree_control", []byte(c), 0)
	}
}

// ownMemory is what containers leave to uni-init and the kernel, in bytes: what those
// were seen to take from before the first container until an exec in it has ended. Of
// a small machine a container gets leastMemory, in which a shell starts.
const ownMemory, leastMemory = 3 << 20, 3 << 20

// limitMemory holds the containers together to what the machine has for them. One that
// wants more has a process killed by its cgroup; where the machine itself runs out, the
// kernel may find nothing else to end than the machine. It is called when the mounts of
// a container are made, of which the kernel keeps its share. Where the kernel does not
// tell, there is no limit.
func limitMemory() {
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return
	}
	stat, err := os.ReadFile(containersTop + "/memory.stat")
	if err != nil {
		return
	}
	os.WriteFile(containersTop+"/memory.max", []byte(formatUint(memoryLimit(meminfo, stat))), 0)
}

// memoryLimit returns the limit, in bytes, for containers by /proc/meminfo and their
// memory.stat: what is available, and what they have of the rest.
func memoryLimit(meminfo, stat []byte) uint64 {
	theirs := counter(stat, "anon") + counter(stat, "shmem") + counter(stat, "kernel") - counter(stat, "slab_reclaimable")
	return max(counter(meminfo, "MemAvailable:")<<10+theirs, ownMemory+leastMemory) - ownMemory
}

// cgroup is that of a container: two below it have the processes. In "app" are those
// of the application: what limits hold for, and what is counted for it. They see it as
// the top and cannot leave it. In "start" is what is going to be one of them: until
// then it has more threads than the limit of processes may leave room for.
type cgroup struct {
	name       string // below cgroupTop, with a slash in front
	app, start int    // directories
	gone       bool   // it is removed

	freezing sync.Mutex // held while it is frozen for a moment, or paused
	paused   bool       // guarded by freezing
}

// makeCgroup makes the cgroup of the container with that id.
func makeCgroup(id uint32) (*cgroup, error) {
	g := &cgroup{name: strings.TrimPrefix(containersTop, cgroupTop) + "/" + formatUint(uint64(id))}
	if err := os.Mkdir(g.file(""), 0o755); err != nil {
		return nil, err
	}
	divide(g.file(""))
	for fd, name := range map[*int]string{&g.app: "app", &g.start: "start"} {
		if err := os.Mkdir(g.file(name), 0o755); err != nil {
			return nil, err
		}
		var err error
		if *fd, err = unix.Open(g.file(name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, pathError("open", g.file(name), err)
		}
	}
	return g, nil
}

// file is the path of one of its files, appFile that of one of the application's.
func (g *cgroup) file(name string) string    { return cgroupTop + g.name + "/" + name }
func (g *cgroup) appFile(name string) string { return g.file("app/" + name) }

func (g *cgroup) write(name, text string) error {
	return os.WriteFile(g.file(name), []byte(text), 0)
}

// limit sets limits of the container.
func (g *cgroup) limit(l wire.Limits) error {
	for name, text := range limitFiles(l) {
		if err := g.write("app/"+name, text); err != nil {
			return wrap("the guest's kernel takes no such limit", err)
		}
	}
	return nil
}

// entry is how a process comes into its container's cgroup and to see it as the top.
type entry struct {
	group int // it is forked into
	// last is a file, and text what is written to it when nothing is left to do but to
	// become the application: until then it is several threads, of the Go runtime.
	last *os.File
	text string
	// top is a file of the namespace of cgroups that it joins; without one it makes one.
	top *os.File
}

// enterFirst is for the first process: it gets its limit of processes last.
func (g *cgroup) enterFirst(l wire.Limits) (e entry, err error) {
	e = entry{group: g.app, text: limitFiles(l)["pids.max"]}
	if e.text == "" {
		return e, nil
	}
	if err := g.write("app/pids.max", "max"); err != nil {
		return e, err
	}
	e.last, err = os.OpenFile(g.appFile("pids.max"), os.O_WRONLY, 0)
	return e, err
}

// enter is for a further process, beside the one of that number: it becomes one of
// the application's last.
func (g *cgroup) enter(beside int) (e entry, err error) {
	e = entry{group: g.start, text: "0"}
	dir, err := g.home(beside)
	if err != nil {
		return e, err
	}
	if e.last, err = os.OpenFile(dir+"/cgroup.procs", os.O_WRONLY, 0); err != nil {
		return e, err
	}
	e.top, _ = os.Open("/proc/" + formatUint(uint64(beside)) + "/ns/cgroup") // without it, it sees more
	return e, nil
}

// home is the cgroup for a process beside the one of that number. An application that
// has given controllers to cgroups of its own, like systemd, has no process in the one
// that was made for it, and the kernel lets none in.
func (g *cgroup) home(beside int) (string, error) {
	if given, err := os.ReadFile(g.appFile("cgroup.subtree_control")); err != nil || len(trimLine(given)) == 0 {
		return g.file("app"), err
	}
	text, err := os.ReadFile("/proc/" + formatUint(uint64(beside)) + "/cgroup")
	if err != nil {
		return "", err
	}
	return cgroupTop + cgroupOf(string(text)), nil
}

// cgroupOf is the path in the hierarchy of version 2 in the text of /proc/PID/cgroup,
// see cgroups(7).
func cgroupOf(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return trimLine([]byte(path))
		}
	}
	return ""
}

func (e entry) close() {
	for _, f := range []*os.File{e.last, e.top} {
		if f != nil {
			f.Close()
		}
	}
}

// full says whether the application may have no more processes.
func (g *cgroup) full() bool {
	number := func(name string) (uint32, bool) {
		text, _ := os.ReadFile(g.appFile(name))
		return parseUint(trimLine(text))
	}
	most, limited := number("pids.max")
	now, _ := number("pids.current")
	return limited && now >= most
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
		if b, err := os.ReadFile(g.appFile(name)); err == nil {
			s.Files = append(s.Files, [2]string{name, string(b)})
		}
	}
	b, _ := os.ReadFile("/proc/net/dev") // without it there are no interfaces to tell of
	s.Network = string(b)
	return s
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
	unix.Close(g.app)
	unix.Close(g.start)
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
