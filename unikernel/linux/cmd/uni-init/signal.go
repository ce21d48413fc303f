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
func signalAll(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		if err := os.WriteFile(cgroupDir+"/cgroup.kill", []byte("1"), 0); err != nil {
			return err
		}
	} else {
		thaw := freeze()
		defer thaw()
	}
	// After cgroup.kill for what a container with the right to has moved to
	// another cgroup.
	pids, err := containerPids()
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

// freeze lets no process of the container run, until thaw is called.
func freeze() (thaw func()) {
	const file = cgroupDir + "/cgroup.freeze"
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		console("freeze: " + err.Error())
		return func() {}
	}
	waitFor(freezeTimeout, func() bool {
		events, err := os.ReadFile(cgroupDir + "/cgroup.events")
		return err != nil || strings.Contains(string(events), "frozen 1")
	})
	return func() {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil {
			console("thaw: " + err.Error())
		}
	}
}

// containerPids lists the processes of the container, as uni-init sees them:
// those of another PID namespace than its own.
func containerPids() ([]int, error) {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, ok := parseUint(e.Name())
		if !ok {
			continue
		}
		ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid")
		if err == nil && ns != own {
			pids = append(pids, int(pid))
		}
	}
	return pids, nil
}
