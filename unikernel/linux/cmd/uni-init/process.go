package main

import (
	"os"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// lingerTimeout is how long the output of an exec'd process is carried on
// after its exit while others hold it open. It is what containerd's runc shim
// waits for.
const lingerTimeout = 10 * time.Second

// process is one process of the container.
type process struct {
	s      *server
	c      *container
	id     uint32
	pid    int      // in uni-init's PID namespace
	master *os.File // terminal, or nil
	in     *input
	outs   []*output

	dead   chan struct{} // closed by reap, after status was set
	status uint32
}

// pipes are the ends of a process' streams: child are its descriptors 0 to 2.
type pipes struct {
	child  [3]int
	parent [3]*os.File
}

// newPipes makes the pipes that a process asks for; other descriptors, and all
// of a terminal's until stage2 replaces them, are /dev/null.
func newPipes(d *wire.Process) (*pipes, error) {
	p := &pipes{child: [3]int{-1, -1, -1}}
	for i, want := range [3]bool{d.Stdin, d.Stdout, d.Stderr} {
		if !want || d.Terminal {
			fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				p.close()
				return nil, pathError("open", "/dev/null", err)
			}
			p.child[i] = fd
			continue
		}
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			p.close()
			return nil, os.NewSyscallError("pipe", err)
		}
		ours, theirs := fds[0], fds[1]
		if i == 0 {
			ours, theirs = fds[1], fds[0]
		}
		unix.SetNonblock(ours, true)
		p.child[i] = theirs
		p.parent[i] = os.NewFile(uintptr(ours), "pipe")
	}
	return p, nil
}

func (p *pipes) closeChild() {
	for i, fd := range p.child {
		if fd >= 0 {
			unix.Close(fd)
			p.child[i] = -1
		}
	}
}

func (p *pipes) close() {
	p.closeChild()
	for _, f := range p.parent {
		if f != nil {
			f.Close()
		}
	}
}

// start forks the process and waits until it is the application, or failed.
func (p *process) start(d *wire.Process, frames []byte) error {
	pp, err := newPipes(d)
	if err != nil {
		return err
	}
	sock, err := p.fork(pp)
	pp.closeChild()
	if err != nil {
		pp.close()
		return p.c.whyNotForked(err)
	}
	defer unix.Close(sock)
	master, err := handshake(sock, frames)
	if err != nil {
		pp.close()
		if err == errSilent {
			err = p.whyDied()
		}
		p.s.mu.Lock()
		delete(p.s.procs, p.id)
		p.s.mu.Unlock()
		return err
	}
	p.attach(d, pp, master)
	return nil
}

// fork starts stage2 and registers it, under the lock that reap takes.
func (p *process) fork(pp *pipes) (sock int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	switch {
	case p.s.procs[p.id] != nil:
		err = &failure{wire.CodeInvalid, "the process exists already"}
	case !p.c.ready || p.c.over:
		err = errStopped
	default:
		p.pid, err = p.forkInto(pp, fds[1])
	}
	unix.Close(fds[1])
	if err != nil {
		unix.Close(fds[0])
		return -1, err
	}
	p.s.procs[p.id], p.s.byPid[p.pid] = p, p
	if p.c.pidns == "" && p.c.ownPIDs() { // it cannot be reaped meanwhile
		p.c.pidns, _ = os.Readlink("/proc/" + formatUint(uint64(p.pid)) + "/ns/pid")
	}
	return fds[0], nil
}

// forkInto forks stage2 into the container's cgroup. The caller holds the server's lock.
func (p *process) forkInto(pp *pipes, sock int) (pid int, err error) {
	var e entry
	if main := p.s.procs[p.c.main]; main != nil {
		e, err = p.c.group.enter(main.pid)
	} else {
		e, err = p.c.group.enterFirst(p.c.Limits)
	}
	defer e.close()
	if err != nil {
		return 0, err
	}
	return p.c.sp.fork(pp.child, sock, e)
}

// attach makes the streams of a process that has started. Nothing moves before
// carry.
func (p *process) attach(d *wire.Process, pp *pipes, master int) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if master >= 0 {
		unix.SetNonblock(master, true)
		p.master = os.NewFile(uintptr(master), "terminal")
		o := newOutput(p.s, p.id, wire.Stdout, p.master)
		o.shared = true
		p.outs = append(p.outs, o)
		p.in = newInput(p.s, p.id, p.master, true)
		return
	}
	if f := pp.parent[0]; f != nil {
		p.in = newInput(p.s, p.id, f, false)
	}
	for i, stream := range []wire.Stream{1: wire.Stdout, 2: wire.Stderr} {
		if f := pp.parent[i]; f != nil && i > 0 {
			p.outs = append(p.outs, newOutput(p.s, p.id, stream, f))
		}
	}
}

// carry starts to carry the streams.
func (p *process) carry() {
	for _, o := range p.outs {
		go o.run()
	}
	if p.in != nil {
		go p.in.run()
	}
}

// flush returns when everything that the dead process left in its pipes is
// sent. After the last process of the container that is all there can be.
func (p *process) flush(last bool) {
	if p.in != nil {
		p.in.close()
	}
	for _, o := range p.outs {
		o.exit(last)
	}
	for _, o := range p.outs {
		<-o.flushed
	}
}

// linger carries on what others write to the dead process' streams, until they
// close them or the time is over.
func (p *process) linger() {
	t := time.AfterFunc(lingerTimeout, func() {
		for _, o := range p.outs {
			o.stop()
		}
	})
	for _, o := range p.outs {
		<-o.ended
	}
	t.Stop()
	if p.master != nil {
		p.master.Close()
	}
}

func (p *process) resize(width, height uint16) error {
	if p.master == nil {
		return &failure{wire.CodeInvalid, "the process has no terminal"}
	}
	rc, err := p.master.SyscallConn()
	if err != nil {
		return errFinished
	}
	err = rc.Control(func(fd uintptr) {
		err = setSize(int(fd), width, height)
	})
	if err != nil {
		return errFinished
	}
	return nil
}

func setSize(fd int, width, height uint16) error {
	return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
}

// parseUint reads a decimal number of at most nine digits.
func parseUint(s string) (uint32, bool) {
	if len(s) == 0 || len(s) > 9 {
		return 0, false
	}
	var n uint32
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + uint32(s[i]-'0')
	}
	return n, true
}
