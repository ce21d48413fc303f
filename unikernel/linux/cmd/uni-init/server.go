package main

import (
	"os"
	"sync"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// ackTimeout is how long the guest stays after the container's exit for a host
// that is connected but does not acknowledge.
const ackTimeout = 30 * time.Second

// server is the guest's side of the control channel.
type server struct {
	port  *os.File
	sp    *spawner
	oom   oomWatch
	clock clock

	wmu  sync.Mutex // guards wbuf and the order of frames
	wbuf []byte

	mu    sync.Mutex          // guards what follows; held over each fork and reap
	procs map[uint32]*process // by the host's id
	byPid map[int]*process    // started and not yet reaped
	main  uint32              // id of the container's process
	ran   bool
	over  bool // the container's process is dead
}

func newServer(port *os.File) *server {
	s := &server{port: port, sp: newSpawner(),
		procs: map[uint32]*process{}, byPid: map[int]*process{}}
	s.oom.send = func(o wire.OOM) { s.send(wire.KindOOM, 0, o.Encode()) }
	return s
}

// send writes one frame. A write error means that the host is gone, which
// serve finds out too.
func (s *server) send(kind wire.Kind, id uint32, payload ...[]byte) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.wbuf = wire.AppendFrame(s.wbuf[:0], kind, id, payload...)
	s.port.Write(s.wbuf)
}

func (s *server) reply(id uint32, err error) {
	s.send(wire.KindReply, id, replyOf(err).Encode())
}

// serve says hello and handles the host's frames until its end is closed. The
// first write waits until the host is there; before that a read would say
// that the other end is closed.
func (s *server) serve() error {
	var uts unix.Utsname
	unix.Uname(&uts)
	s.send(wire.KindHello, 0, wire.Hello{Version: wire.Version, Kernel: unix.ByteSliceToString(uts.Release[:])}.Encode())
	r := wire.NewReader(s.port, wire.MaxHostPayload)
	for {
		f, err := r.Read()
		if err != nil {
			return err
		}
		if err := s.handle(f); err != nil {
			return err
		}
	}
}

// handle acts on one frame; what takes long goes on in a goroutine of its own.
func (s *server) handle(f wire.Frame) error {
	switch f.Kind {
	case wire.KindRun:
		req, err := wire.DecodeRun(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.run(f.ID, &req) }()
	case wire.KindExec:
		req, err := wire.DecodeExec(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.exec(f.ID, &req) }()
	case wire.KindSignal:
		req, err := wire.DecodeSignal(f.Payload)
		if err != nil {
			return err
		}
		if req.All { // may take a moment
			go func() { s.reply(f.ID, s.signal(req)) }()
			return nil
		}
		s.reply(f.ID, s.signal(req))
	case wire.KindResize:
		req, err := wire.DecodeResize(f.Payload)
		if err != nil {
			return err
		}
		s.reply(f.ID, s.resize(req))
	case wire.KindData, wire.KindEOF:
		stream, data, err := wire.DecodeStream(f.Payload)
		if err != nil || stream != wire.Stdin {
			return wire.ErrFrame
		}
		if p := s.proc(f.ID); p != nil && p.in != nil {
			p.in.push(data, f.Kind == wire.KindEOF)
		}
	case wire.KindCredit:
		stream, n, err := wire.DecodeCredit(f.Payload)
		if err != nil {
			return err
		}
		if p := s.proc(f.ID); p != nil {
			p.credit(stream, n)
		}
	case wire.KindClock:
		req, err := wire.DecodeClock(f.Payload)
		if err != nil {
			return err
		}
		s.setClock(f.ID, req)
	case wire.KindStats:
		go func() {
			s.send(wire.KindReply, f.ID, wire.Reply{Data: stats().Encode()}.Encode())
		}()
	case wire.KindLimit:
		req, err := wire.DecodeLimits(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.reply(f.ID, limit(req)) }()
	case wire.KindSpace:
		req, err := wire.DecodeSpace(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.reply(f.ID, s.sp.setSpace(req)) }()
	case wire.KindShutdown:
		go func() {
			s.reply(f.ID, s.sp.quiesce())
			powerOff()
		}()
	default:
		return wire.ErrFrame
	}
	return nil
}

func (s *server) proc(id uint32) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[id]
}

// run sets the container up and starts its process.
func (s *server) run(req uint32, r *wire.Run) {
	s.mu.Lock()
	again := s.ran
	s.ran, s.main = true, r.ID
	s.mu.Unlock()
	if again {
		s.reply(req, &failure{wire.CodeInvalid, "the container was started already"})
		return
	}
	if err := s.clock.correct(time.Duration(r.Clock.Behind)); err != nil {
		s.reply(req, wrap("set the clock", err))
		return
	}
	if err := s.sp.setup(&r.Container); err != nil {
		s.reply(req, err)
		return
	}
	go s.oom.follow()
	s.start(req, r.ID, &r.Process, wire.KindRun, r.Encode())
}

// exec starts a further process.
func (s *server) exec(req uint32, x *wire.Exec) {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over || !s.sp.ready() {
		s.reply(req, errStopped)
		return
	}
	s.start(req, x.ID, &x.Process, wire.KindExec, x.Encode())
}

// start starts a process, answers the request and sees to the process' end.
func (s *server) start(req, id uint32, d *wire.Process, kind wire.Kind, description []byte) {
	p := &process{s: s, id: id, dead: make(chan struct{})}
	err := p.start(d, kind, description)
	s.reply(req, err)
	if err != nil {
		return
	}
	p.carry()
	<-p.dead
	p.flush(s.isMain(id))
	s.oom.look()
	s.send(wire.KindExit, id, wire.Exit{Status: p.status}.Encode())
	if s.isMain(id) {
		time.Sleep(ackTimeout)
		console("the host did not acknowledge the exit")
		s.sp.quiesce()
		powerOff()
	}
	p.linger()
	s.mu.Lock()
	delete(s.procs, id)
	s.mu.Unlock()
}

func (s *server) isMain(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.main == id
}

// reap waits for every child that ends, ours and orphans alike.
func (s *server) reap(children <-chan os.Signal) {
	for range children {
		for s.reapOne() {
		}
	}
}

func (s *server) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	if err == unix.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if p := s.byPid[pid]; p != nil {
		delete(s.byPid, pid)
		s.over = s.over || p.id == s.main
		p.status = uint32(ws.ExitStatus())
		if ws.Signaled() {
			p.status = 128 + uint32(ws.Signal())
		}
		close(p.dead)
	}
	return true
}

// errStopped answers a request for a process in a container that is not there,
// in the words of runc.
var errStopped = &failure{wire.CodeInvalid, "cannot exec in a stopped container"}

// errFinished answers a request for a process that has exited, in the words of
// runc.
var errFinished = &failure{wire.CodeNotFound, "process already finished"}

// deathTimeout bounds waiting for what is on its way: the end of a process whose
// socket is closed, or of a container whose kernel refuses it further processes.
const deathTimeout = time.Second

// whyDied says why stage2 is gone that said nothing.
func (s *server) whyDied(p *process) error {
	t := time.NewTimer(deathTimeout)
	defer t.Stop()
	select {
	case <-p.dead:
	case <-t.C:
		return errSilent
	}
	switch {
	case s.oom.look():
		return &failure{wire.CodeInvalid, "the machine has not enough memory for one more process: give the container more"}
	case s.isMain(p.id):
	case s.ends():
		return errStopped
	}
	return &failure{wire.CodeInternal, errSilent.Error() + ", with status " + formatUint(uint64(p.status))}
}

// whyNotForked explains an error of fork(2).
func (s *server) whyNotForked(err error) error {
	switch {
	case err == error(unix.EAGAIN):
		return &failure{wire.CodeInvalid, "the container has as many processes as it may have"}
	case err == error(unix.ENOMEM):
		// Also the kernel's word for a PID namespace whose PID 1 has died.
		if s.ends() {
			return errStopped
		}
		return &failure{wire.CodeInvalid, "the machine has not enough memory for one more process: give the container more"}
	}
	if _, ok := err.(unix.Errno); ok {
		return pathError("fork", "/init", err)
	}
	return err
}

// ends says whether the container's process is dead, or is so in a moment.
func (s *server) ends() bool {
	return waitFor(deathTimeout, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.over
	})
}

// signal signals one process or all. The lock keeps a pid from being reaped,
// and so from being another process', in between.
func (s *server) signal(req wire.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[req.Process]
	if p == nil || s.byPid[p.pid] != p {
		return errFinished
	}
	sig := unix.Signal(req.Signal)
	if !req.All {
		return kill(p.pid, sig)
	}
	return signalAll(sig)
}

func kill(pid int, sig unix.Signal) error {
	switch err := unix.Kill(pid, sig); err {
	case nil:
		return nil
	case unix.ESRCH:
		return errFinished
	case unix.EINVAL:
		return &failure{wire.CodeInvalid, "no such signal"}
	default:
		return os.NewSyscallError("kill", err)
	}
}

func (s *server) resize(req wire.Resize) error {
	s.mu.Lock()
	p := s.procs[req.Process]
	s.mu.Unlock()
	if p == nil {
		return errFinished
	}
	return p.resize(req.Width, req.Height)
}
