package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// vmProcess is the hypervisor's process, held by a descriptor that no other
// process can ever take over (pidfd_open(2)). It is how a machine is ended, and
// its end noticed, when libvirt does not answer.
type vmProcess struct {
	mu  sync.Mutex
	pid int
	fd  int // -1 without, and once closed
}

// holdProcess never fails: without a descriptor only libvirt can end the machine.
func holdProcess(pid int) *vmProcess {
	v := &vmProcess{fd: -1}
	v.adopt(pid)
	return v
}

// adopt holds another process from now on.
func (v *vmProcess) adopt(pid int) {
	v.close()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		fd = -1
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pid, v.fd = pid, fd
}

// id returns the process's number.
func (v *vmProcess) id() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pid
}

var errNoDescriptor = errors.New("no descriptor of the hypervisor's process")

// kill sends SIGKILL; a process that has ended is not an error.
func (v *vmProcess) kill() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fd < 0 {
		return errNoDescriptor
	}
	if err := unix.PidfdSendSignal(v.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill hypervisor: %w", err)
	}
	return nil
}

// wait returns when the process has ended. It looks again every so often, so
// that it also ends with the context.
func (v *vmProcess) wait(ctx context.Context) error {
	const look = 500 * time.Millisecond
	for ctx.Err() == nil {
		v.mu.Lock()
		fd := v.fd
		v.mu.Unlock()
		if fd < 0 {
			return errNoDescriptor
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(look.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

// close gives the descriptor back.
func (v *vmProcess) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fd >= 0 {
		_ = unix.Close(v.fd)
		v.fd = -1
	}
}

// score sets how readily the kernel ends the hypervisor when the host's memory
// runs out, as the specification asks for its process (proc(5),
// oom_score_adj). Less than our own needs CAP_SYS_RESOURCE.
func (v *vmProcess) score(adj *int) error {
	if adj == nil {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", v.id()), []byte(strconv.Itoa(*adj)), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended; watch will notice
	}
	return err
}
