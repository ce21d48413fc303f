package main

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// signalAll signals every process of the container, also one that is being
// forked: nothing that runs can be listed without missing what it starts
// meanwhile, so the kernel does it (SIGKILL), or nothing runs.
func (c *container) signalAll(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		if err := c.group.write("cgroup.kill", "1"); err != nil {
			return err
		}
	} else {
		thaw := c.group.freeze()
		defer thaw()
	}
	// After cgroup.kill for what a container with the right to has moved to
	// another cgroup.
	pids, err := c.pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if e := kill(pid, sig); e != nil && e != error(errFinished) {
			err = e
		}
	}
	return err
}

// freezeTimeout bounds waiting for the container's processes to stand still. One
// that waits in the kernel for a disk or for the host does not, and does not
// fork either: when it comes back it stands still.
const freezeTimeout = time.Second

// freeze lets no process of the container run, until thaw is called, unless it is
// paused then.
func (g *cgroup) freeze() (thaw func()) {
	g.freezing.Lock()
	if err := g.write("cgroup.freeze", "1"); err != nil {
		console("freeze: " + err.Error())
		g.freezing.Unlock()
		return func() {}
	}
	waitFor(freezeTimeout, func() bool { return g.event("frozen 1") })
	return func() {
		defer g.freezing.Unlock()
		if err := g.settle(); err != nil {
			console("thaw: " + err.Error())
		}
	}
}

// pids lists the processes of the container, as uni-init sees them: those in its
// cgroup or below it, and those in its PID namespace.
func (c *container) pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, ok := parseUint(e.Name())
		if ok && c.holds("/proc/"+e.Name()) {
			pids = append(pids, int(pid))
		}
	}
	return pids, nil
}

// holds tells whether a process, known by its directory in /proc, is the
// container's.
func (c *container) holds(proc string) bool {
	if ns, err := os.Readlink(proc + "/ns/pid"); err == nil && ns == c.pidns {
		return true
	}
	b, err := os.ReadFile(proc + "/cgroup")
	return err == nil && inCgroup(trimLine(b), c.group.name)
}

// inCgroup tells whether a line of /proc/PID/cgroup names a cgroup of version 2 that
// is name or below it.
func inCgroup(line, name string) bool {
	rest, ok := strings.CutPrefix(line, "0::"+name)
	return ok && (rest == "" || rest[0] == '/')
}
