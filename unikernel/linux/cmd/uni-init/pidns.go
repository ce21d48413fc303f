package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// podPIDs is the PID namespace of those containers of a pod that share one. Its PID 1
// is this program under the name that users know; it starts with the first of them and
// stays.
type podPIDs struct {
	mu  sync.Mutex
	pid int // of its PID 1, in uni-init's namespace; 0 before
}

// keeperName is the program name of the PID 1 of a pod's PID namespace, what it is
// under other runtimes.
const keeperName = "/pause"

// keeper is that PID 1: it takes in orphans and lets them go. What it ignores as a
// parent the kernel reaps, and as a process its containers cannot end it by.
func keeper() {
	signal.Ignore()
	unix.Chroot(lowerDir) // which is empty here: it has nothing of the machine's to show
	unix.Chdir("/")
	for { // in the kernel: Go ends a program all of whose goroutines wait
		unix.Pause()
	}
}

// open returns the namespace's descriptor, which the caller closes.
func (p *podPIDs) open() (fd int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, pathError("open", "/dev/null", err)
		}
		defer unix.Close(null)
		p.pid, err = syscall.ForkExec("/proc/self/exe", []string{keeperName}, &syscall.ProcAttr{
			Env: []string{}, Files: []uintptr{uintptr(null), uintptr(null), uintptr(null)},
			Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID},
		})
		if err != nil {
			p.pid = 0
			return -1, os.NewSyscallError("fork", err)
		}
	}
	return openPIDs(p.pid)
}

// openPIDs opens the PID namespace of a process, which is not reaped meanwhile.
func openPIDs(pid int) (fd int, err error) {
	path := "/proc/" + formatUint(uint64(pid)) + "/ns/pid"
	if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return -1, pathError("open", path, err)
	}
	return fd, nil
}

// openPIDs opens the PID namespace that the container's processes are to be in; -1 is
// one of its own.
func (c *container) openPIDs() (fd int, err error) {
	switch c.PIDs.Kind {
	case wire.PIDSandbox:
		return c.s.podPIDs.open()
	case wire.PIDContainer:
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		if other := c.s.containers[c.PIDs.Container]; other != nil && !other.over {
			if p := c.s.procs[other.main]; p != nil && c.s.byPid[p.pid] == p {
				return openPIDs(p.pid)
			}
		}
		return -1, &failure{wire.CodeInvalid, "the container whose processes this one is to see does not run"}
	default:
		return -1, nil
	}
}

// ownPIDs says whether the kernel ends all processes of the container with the first.
func (c *container) ownPIDs() bool { return c.PIDs.Kind == wire.PIDOwn }
