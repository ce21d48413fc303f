package main

import (
	"io"
	"os"
	"sync"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// server is the guest's side of the control channel.
type server struct {
	port    *os.File
	clock   clock
	slots   chan struct{} // full with as many connections as there may be
	volumes volumes

	wmu  sync.Mutex // guards wbuf and the order of frames
	wbuf []byte

	disksMu sync.Mutex // guards which disks are whose; held while one is looked for and mounted

	mu         sync.Mutex // guards what follows; held over each fork and reap
	containers map[uint32]*container
	procs      map[uint32]*process // by the host's id
	conns      map[uint32]*connection
	byPid      map[int]*process // started and not yet reaped
	asked      bool             // to set the machine up
	ready      bool             // it is
	parked     *parked          // while it is to be a template

	podPIDs podPIDs
}

func newServer(port *os.File) *server {
	return &server{port: port, slots: make(chan struct{}, wire.MaxConnections), containers: map[uint32]*container{},
		procs: map[uint32]*process{}, conns: map[uint32]*connection{}, byPid: map[int]*process{}}
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
// that the other end is closed. A parked machine says hello to one host after the
// other.
func (s *server) serve() error {
	for {
		s.hello()
		if err := s.listen(); err != io.EOF || !s.isParked() {
			return err
		}
	}
}

func (s *server) hello() {
	var uts unix.Utsname
	unix.Uname(&uts)
	h := wire.Hello{Version: wire.Version, Kernel: unix.ByteSliceToString(uts.Release[:]), Parked: s.isParked()}
	s.send(wire.KindHello, 0, h.Encode())
}

// listen handles frames until one cannot be read.
func (s *server) listen() error {
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
	case wire.KindSandbox:
		req, err := wire.DecodeSandbox(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.reply(f.ID, s.sandbox(&req)) }()
	case wire.KindContainer:
		req, err := wire.DecodeContainer(f.Payload)
		if err != nil {
			return err
		}
		c, err := s.addContainer(req) // here: what comes next may name it
		if err != nil {
			s.reply(f.ID, err)
			return nil
		}
		go func() { s.reply(f.ID, c.create()) }()
	case wire.KindRemove:
		req, err := wire.DecodeTarget(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.reply(f.ID, s.remove(req.Container)) }()
	case wire.KindRun, wire.KindExec:
		req, err := wire.DecodeStart(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.start(f.ID, &req, f.Kind == wire.KindRun) }()
	case wire.KindDial:
		req, err := wire.DecodeDial(f.Payload)
		if err != nil {
			return err
		}
		go s.dial(f.ID, req)
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
		if in := s.input(f.ID); in != nil {
			in.push(data, f.Kind == wire.KindEOF)
		}
	case wire.KindCredit:
		stream, n, err := wire.DecodeCredit(f.Payload)
		if err != nil {
			return err
		}
		for _, o := range s.outputs(f.ID) {
			if o.stream == stream {
				o.give(n)
			}
		}
	case wire.KindClock:
		req, err := wire.DecodeClock(f.Payload)
		if err != nil {
			return err
		}
		s.setClock(f.ID, req)
	case wire.KindStats:
		req, err := wire.DecodeTarget(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.stats(f.ID, req.Container) }()
	case wire.KindLimit:
		req, err := wire.DecodeSetLimits(f.Payload)
		if err != nil {
			return err
		}
		go func() {
			s.reply(f.ID, s.with(req.Container, func(c *container) error { return c.group.limit(req.Limits) }))
		}()
	case wire.KindFreeze:
		req, err := wire.DecodeFreeze(f.Payload)
		if err != nil {
			return err
		}
		go func() {
			s.reply(f.ID, s.with(req.Container, func(c *container) error { return c.group.pause(req.Frozen) }))
		}()
	case wire.KindSpace:
		req, err := wire.DecodeSetSpace(f.Payload)
		if err != nil {
			return err
		}
		go func() {
			err := error(errNoContainer)
			if c := s.container(req.Container); c != nil { // it need not be ready
				err = c.setSpace(req.Space)
			}
			s.reply(f.ID, err)
		}()
	case wire.KindVolume:
		req, err := wire.DecodeVolume(f.Payload)
		if err != nil {
			return err
		}
		go func() { s.reply(f.ID, s.volumes.set(&req)) }()
	case wire.KindPark:
		s.reply(f.ID, s.park())
	case wire.KindWake:
		req, err := wire.DecodeWake(f.Payload)
		if err != nil {
			return err
		}
		s.reply(f.ID, s.wake(&req)) // here: nothing else goes on meanwhile
	case wire.KindShutdown:
		go func() {
			s.reply(f.ID, s.quiesce())
			powerOff()
		}()
	default:
		return wire.ErrFrame
	}
	return nil
}

// input returns what takes data for a process or connection, or nil.
func (s *server) input(id uint32) *input {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[id]; p != nil {
		return p.in
	}
	if c := s.conns[id]; c != nil {
		return c.in
	}
	return nil
}

// outputs returns what takes credit for a process or connection.
func (s *server) outputs(id uint32) []*output {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[id]; p != nil {
		return p.outs
	}
	if c := s.conns[id]; c != nil {
		return []*output{c.out}
	}
	return nil
}

// sandbox sets the machine up, once.
func (s *server) sandbox(b *wire.Sandbox) error {
	if err := s.ask(); err != nil {
		return err
	}
	if err := s.setupSandbox(b); err != nil {
		return err
	}
	go s.followOOM()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = true
	return nil
}

// ask says that the machine is being set up, unless it was before or is parked.
func (s *server) ask() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.asked:
		return errAsked
	case s.parked != nil:
		return &failure{wire.CodeInvalid, "the machine is parked"}
	}
	s.asked = true
	return nil
}

var errAsked = &failure{wire.CodeInvalid, "the machine was set up already"}

// with calls f with a container that is ready. If it is removed meanwhile, its
// cgroup's files are not there.
func (s *server) with(id uint32, f func(*container) error) error {
	s.mu.Lock()
	c := s.containers[id]
	ready := c != nil && c.ready
	s.mu.Unlock()
	if !ready {
		return errNoContainer
	}
	return f(c)
}

func (s *server) stats(req, id uint32) {
	var r wire.Reply
	err := s.with(id, func(c *container) error {
		r.Data = c.group.stats().Encode()
		return nil
	})
	if err != nil {
		r = replyOf(err)
	}
	s.send(wire.KindReply, req, r.Encode())
}

// claim returns the container of a process that shall start: its first one, or a
// further one.
func (s *server) claim(r *wire.Start, first bool) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[r.Container]
	switch {
	case c == nil && first:
		return nil, errNoContainer
	case c == nil || c.over || !c.ready || !first && c.main == 0:
		return nil, errStopped
	case first && c.main != 0:
		return nil, &failure{wire.CodeInvalid, "the container was started already"}
	case first:
		c.main = r.ID
	}
	return c, nil
}

// start starts a process, answers the request and sees to the process' end.
func (s *server) start(req uint32, r *wire.Start, first bool) {
	c, err := s.claim(r, first)
	if err != nil {
		s.reply(req, err)
		return
	}
	var frames []byte
	if first {
		frames = wire.AppendFrame(nil, wire.KindContainer, 0, c.Encode())
	}
	p := &process{s: s, c: c, id: r.ID, dead: make(chan struct{})}
	if !first {
		err = c.room()
	}
	if err == nil {
		err = p.start(&r.Process, wire.AppendFrame(frames, wire.KindExec, 0, r.Encode()))
	}
	if err != nil && first {
		c.end()
	}
	s.reply(req, err)
	if err != nil {
		return
	}
	p.carry()
	<-p.dead
	if first && !c.ownPIDs() {
		if err := c.group.empty(); err != nil {
			console("the end of a container: " + err.Error())
		}
	}
	p.flush(first)
	c.oom.look()
	s.send(wire.KindExit, r.ID, wire.Exit{Status: p.status}.Encode())
	p.linger()
	s.mu.Lock()
	delete(s.procs, r.ID)
	s.mu.Unlock()
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
		p.c.over = p.c.over || p.id == p.c.main
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
func (p *process) whyDied() error {
	t := time.NewTimer(deathTimeout)
	defer t.Stop()
	select {
	case <-p.dead:
	case <-t.C:
		return errSilent
	}
	switch {
	case p.c.oom.look():
		return &failure{wire.CodeInvalid, "the machine has not enough memory for one more process: give the container more"}
	case p.id == p.c.main: // set before it was forked
	case p.c.ends():
		return errStopped
	}
	return &failure{wire.CodeInternal, errSilent.Error() + ", with status " + formatUint(uint64(p.status))}
}

// errCrowded answers a request for a process that the limit leaves no room for. The
// kernel lets one in that comes from elsewhere, so it is asked before.
var errCrowded = &failure{wire.CodeInvalid, "the container may have no more processes: give it a higher limit of processes (pids)"}

// crowdedTimeout is how long a process waits for room: one that is about to become the
// application's counts as six.
const crowdedTimeout = time.Second

// room returns when the container may have one process more.
func (c *container) room() error {
	if !waitFor(crowdedTimeout, func() bool { return !c.group.full() }) {
		return errCrowded
	}
	return nil
}

// whyNotForked explains an error of fork(2).
func (c *container) whyNotForked(err error) error {
	switch {
	case err == error(unix.EAGAIN):
		return errCrowded
	case err == error(unix.ENOMEM):
		// Also the kernel's word for a PID namespace whose PID 1 has died.
		if c.ends() {
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
func (c *container) ends() bool {
	return waitFor(deathTimeout, func() bool {
		c.s.mu.Lock()
		defer c.s.mu.Unlock()
		return c.over
	})
}

// signal signals one process, or all of its container, or breaks off a connection. The lock keeps a pid from being reaped,
// and so from being another process', in between.
func (s *server) signal(req wire.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.conns[req.Process]; c != nil {
		c.breakOff()
		return nil
	}
	p := s.procs[req.Process]
	if p == nil || s.byPid[p.pid] != p {
		return errFinished
	}
	sig := unix.Signal(req.Signal)
	if !req.All {
		return kill(p.pid, sig)
	}
	return p.c.signalAll(sig)
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
