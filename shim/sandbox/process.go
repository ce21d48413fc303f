package sandbox

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

// process is a process of the host, held by a descriptor that no other process
// can ever take over (pidfd_open(2)). By the hypervisor's a machine is ended, and
// its end noticed, when libvirt does not answer.
type process struct {
	mu   sync.Mutex
	pid  int
	file *os.File // nil without a descriptor
}

// noProcess holds none yet.
func noProcess() *process { return &process{} }

// adopt holds another process from now on. It never fails: without a descriptor
// only libvirt can end the machine.
func (p *process) adopt(pid int) {
	p.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
	if fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK); err == nil {
		p.file = os.NewFile(uintptr(fd), "pidfd")
	} else if fd, err := unix.PidfdOpen(pid, 0); err == nil && unix.SetNonblock(fd, true) == nil { // before Linux 5.10
		p.file = os.NewFile(uintptr(fd), "pidfd")
	}
}

// id returns the process's number.
func (p *process) id() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

var errNoDescriptor = errors.New("no descriptor of the process")

// held returns the descriptor.
func (p *process) held() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		return nil, errNoDescriptor
	}
	return p.file, nil
}

// kill sends SIGKILL; a process that has ended is not an error.
func (p *process) kill() error {
	file, err := p.held()
	if err != nil {
		return err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if err = errors.Join(cerr, err); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process: %w", err)
	}
	return nil
}

// wait returns nil when the process has ended, if ctx had not before, and else an
// error when ctx ends or the process is let go. One caller at a time.
func (p *process) wait(ctx context.Context) error {
	file, err := p.held()
	if err != nil {
		return err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	_ = file.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Now()) })
	defer stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = raw.Read(ended)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// ended says whether the process of a descriptor has.
func ended(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 && err == nil
}

// hasEnded is false too where it cannot be told.
func (p *process) hasEnded() (yes bool) {
	file, err := p.held()
	if err != nil {
		return false
	}
	if raw, err := file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { yes = ended(fd) })
	}
	return yes
}

// close gives the descriptor back. Who waits is woken.
func (p *process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}

// score sets how readily the kernel ends the process when the host's memory runs
// out, as the specification asks for its own (proc(5), oom_score_adj). Less than our
// own needs CAP_SYS_RESOURCE. One that has ended is not an error.
func (p *process) score(adj int) error {
	file, err := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.id()), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if p.hasEnded() { // the number may be another's
		return nil
	}
	_, err = file.WriteString(strconv.Itoa(adj))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
