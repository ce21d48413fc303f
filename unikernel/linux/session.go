package linux

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

// session is the host's side of the control channel. Its goroutines, one
// for each direction and one for the clock, end with conn.
type session struct {
	conn io.ReadWriteCloser
	out  chan outFrame
	done chan struct{} // closed when the session ended; err says why
	wg   sync.WaitGroup
	// clock is full while the guest's clock is being set.
	clock chan struct{}
	late  int // bytes that came of processes that were gone; read's own

	mu    sync.Mutex // guards what follows
	err   error
	calls map[uint32]*call
	procs map[uint32]*proc
	// members are the containers, only the one that Run makes.
	members map[uint32]*member
	only    *member
	// These are the ids given out last: every smaller one was given out too.
	lastCall, lastProc, lastMember uint32
	configured                     bool // the machine, or it is being so
}

// outFrame is a frame on its way out.
type outFrame struct {
	b []byte
}

// call is a request that waits for its reply.
type call struct {
	reply chan wire.Reply // buffered
	late  func(wire.Reply)
}

// sessionError is the end of a session, as unikernel.ErrUnavailable.
func sessionError(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("%w: %s: the control channel was closed", unikernel.ErrUnavailable, what)
	}
	return fmt.Errorf("%w: %s: %w", unikernel.ErrUnavailable, what, err)
}

// Connect implements unikernel.Guest.
func (g *Guest) Connect(ctx context.Context, m unikernel.Booted) (unikernel.Session, error) {
	conn, err := m.Control(ctx)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	session, err := g.Attach(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("boot: %w", err)
	}
	return session, nil
}

// Attach takes over the host's end of the control channel of a machine that is
// booting, and returns when the guest is ready for its configuration, the
// context ends, or conn breaks (unikernel.ErrUnavailable). It owns conn from
// then on, also when it fails.
func (g *Guest) Attach(ctx context.Context, conn io.ReadWriteCloser) (unikernel.Session, error) {
	h, err := awaitHello(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &session{conn: conn, out: make(chan outFrame), done: make(chan struct{}), clock: make(chan struct{}, 1),
		calls: map[uint32]*call{}, procs: map[uint32]*proc{}, members: map[uint32]*member{}}
	s.only = s.newMember()
	s.wg.Go(s.read)
	s.wg.Go(s.write)
	s.wg.Go(s.keepClock)
	if h.Parked {
		if err := s.wake(ctx); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// awaitHello reads the first frame. When ctx ends before, conn is closed.
func awaitHello(ctx context.Context, conn io.ReadCloser) (h wire.Hello, err error) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		h, err = readHello(conn)
	}()
	select {
	case <-said:
		return h, err
	case <-ctx.Done():
		conn.Close()
		<-said
		return h, fmt.Errorf("%w: the guest did not come up: %w", unikernel.ErrUnavailable, context.Cause(ctx))
	}
}

// maxHello bounds the first frame in bytes.
const maxHello = 512

func readHello(conn io.Reader) (wire.Hello, error) {
	f, err := wire.NewReader(conn, maxHello).Read()
	if err != nil {
		return wire.Hello{}, sessionError("wait for the guest", err)
	}
	h, err := wire.DecodeHello(f.Payload)
	if err != nil || f.Kind != wire.KindHello {
		return wire.Hello{}, sessionError("wait for the guest", errors.New("it does not speak the protocol"))
	}
	if h.Version != wire.Version {
		return wire.Hello{}, sessionError("wait for the guest", fmt.Errorf("its initrd speaks version %d of the protocol and this program version %d: install both from one build", h.Version, wire.Version))
	}
	return h, nil
}

// write sends frames in order.
func (s *session) write() {
	for {
		select {
		case f := <-s.out:
			if _, err := s.conn.Write(f.b); err != nil {
				s.end(sessionError("write to the guest", err))
				return
			}
		case <-s.done:
			return
		}
	}
}

// send queues one frame. It gives up when ctx or the session ends, or stop is
// closed.
func (s *session) send(ctx context.Context, stop <-chan struct{}, f outFrame) error {
	select {
	case s.out <- f:
		return nil
	case <-stop:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the guest does not take what is sent: %w", unikernel.ErrUnavailable, context.Cause(ctx))
	case <-s.done:
		return s.err
	}
}

// read handles what the guest sends until the session ends.
func (s *session) read() {
	r := wire.NewReader(bufio.NewReaderSize(s.conn, wire.MaxGuestPayload), wire.MaxGuestPayload)
	var p pace
	for {
		if d := p.pause(time.Now); d > 0 {
			s.rest(d)
		}
		f, err := r.Read()
		if err == nil {
			err = s.handle(f)
		}
		if err != nil {
			s.end(sessionError("read from the guest", err))
			return
		}
	}
}

// maxLate is how many bytes are taken of processes that are gone: an honest
// guest has none but credits.
const maxLate = 1 << 20

// rest waits, at most until the session ended.
func (s *session) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.done:
	}
}

// handle acts on one frame and never waits.
func (s *session) handle(f wire.Frame) error {
	switch f.Kind {
	case wire.KindReply:
		r, err := wire.DecodeReply(f.Payload)
		if err != nil {
			return err
		}
		return s.answer(f.ID, r)
	case wire.KindData, wire.KindEOF, wire.KindCredit, wire.KindExit:
		s.mu.Lock()
		p, known := s.procs[f.ID], f.ID > 0 && f.ID <= s.lastProc
		s.mu.Unlock()
		switch {
		case p != nil:
			return p.handle(f)
		case known: // it is gone: a credit of the guest's may come after the exit
			if s.late += len(f.Payload); s.late > maxLate && f.Kind != wire.KindCredit {
				return errors.New("it sends data of processes that are gone")
			}
			return nil
		}
		return fmt.Errorf("it speaks of process %d, which never existed", f.ID)
	case wire.KindOOM:
		o, err := wire.DecodeOOM(f.Payload)
		if err != nil {
			return err
		}
		s.mu.Lock()
		var tell func()
		if m := s.members[o.Container]; m != nil {
			tell = m.onOOM
		}
		known := o.Container > 0 && o.Container <= s.lastMember
		s.mu.Unlock()
		switch {
		case !known:
			return fmt.Errorf("it speaks of container %d, which never existed", o.Container)
		case tell != nil:
			tell()
		}
		return nil
	default:
		return fmt.Errorf("it sent a frame of kind %d", f.Kind)
	}
}

func (s *session) answer(id uint32, r wire.Reply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls[id]
	if c == nil {
		return fmt.Errorf("it answers request %d, which was not made", id)
	}
	delete(s.calls, id)
	if c.late != nil {
		go c.late(r)
		return nil
	}
	c.reply <- r
	return nil
}

// call makes a request and waits for its reply.
func (s *session) call(ctx context.Context, kind wire.Kind, payload []byte) error {
	_, err := s.ask(ctx, kind, payload)
	return err
}

// ask makes a request and returns the data of its reply.
func (s *session) ask(ctx context.Context, kind wire.Kind, payload []byte) (data string, err error) {
	r, _, err := s.callLate(ctx, kind, payload, func(wire.Reply) {})
	return r.Data, err
}

// callLate makes a request and waits for its reply. If ctx ends first it
// reports that it left; late is then called if a reply comes after all.
func (s *session) callLate(ctx context.Context, kind wire.Kind, payload []byte, late func(wire.Reply)) (_ wire.Reply, left bool, err error) {
	if len(payload) > wire.MaxHostPayload {
		return wire.Reply{}, false, fmt.Errorf("%w: arguments, environment and mounts take %d bytes, more than %d", unikernel.ErrInvalid, len(payload), wire.MaxHostPayload)
	}
	c := &call{reply: make(chan wire.Reply, 1)}
	s.mu.Lock()
	s.lastCall++
	id := s.lastCall
	s.calls[id] = c
	s.mu.Unlock()
	if err := s.send(ctx, nil, outFrame{b: wire.AppendFrame(nil, kind, id, payload)}); err != nil {
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
		return wire.Reply{}, false, err
	}
	select {
	case r := <-c.reply:
		return r, false, replyError(r)
	case <-s.done:
		return wire.Reply{}, false, s.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case r := <-c.reply:
		return r, false, replyError(r)
	default:
	}
	c.late = late
	return wire.Reply{}, true, fmt.Errorf("%w: the guest did not answer: %w", unikernel.ErrUnavailable, context.Cause(ctx))
}

// guestError is an error in the guest's words, made printable, with the class it
// gave.
type guestError struct {
	text  string
	class error
}

func (e *guestError) Error() string { return e.text }
func (e *guestError) Unwrap() error { return e.class }

// maxErrorText bounds an error's text in bytes, whatever the guest sent.
const maxErrorText = 4 << 10

func replyError(r wire.Reply) error {
	text := unikernel.Printable(r.Text, maxErrorText)
	switch r.Code {
	case wire.CodeOK:
		return nil
	case wire.CodeNotFound:
		return &guestError{text, unikernel.ErrNotFound}
	case wire.CodeInvalid:
		return &guestError{text, unikernel.ErrInvalid}
	default:
		return &guestError{"guest: " + text, nil}
	}
}

// start asks the guest for a process or connection. One that starts after its caller
// gave up is killed.
func (s *session) start(ctx context.Context, kind wire.Kind, io unikernel.Stdio, terminal bool, payload func(id uint32) []byte) (*proc, error) {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	s.lastProc++
	p := newProc(s, s.lastProc, io, terminal)
	if kind == wire.KindDial {
		if s.connections() >= wire.MaxConnections {
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: it has %d connections already", unikernel.ErrUnavailable, wire.MaxConnections)
		}
		p.isConnection, p.outs[wire.Stdout].most = true, wire.OutWindow
	}
	s.procs[p.id] = p
	s.mu.Unlock()
	_, left, err := s.callLate(ctx, kind, payload(p.id), p.abandon)
	if err != nil {
		if !left {
			s.remove(p)
		}
		return nil, err
	}
	p.run()
	if p.in != nil {
		go p.in.run()
	}
	return p, nil
}

// connections counts those of which the guest has not told the end. The caller holds
// mu.
func (s *session) connections() (n int) {
	for _, p := range s.procs {
		if p.isConnection {
			n++
		}
	}
	return n
}

// remove forgets a process of which the guest has nothing more to say.
func (s *session) remove(p *proc) {
	s.mu.Lock()
	delete(s.procs, p.id)
	s.mu.Unlock()
}

// Shutdown implements unikernel.Session.
func (s *session) Shutdown(ctx context.Context) error {
	return s.call(ctx, wire.KindShutdown, nil)
}

// Close implements unikernel.Session.
func (s *session) Close() error {
	s.end(fmt.Errorf("%w: the session was closed", unikernel.ErrUnavailable))
	s.wg.Wait()
	return nil
}

// end ends the session once; the first reason is the one that counts.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	procs := s.procs
	s.procs = map[uint32]*proc{}
	s.mu.Unlock()
	close(s.done)
	s.conn.Close()
	for _, p := range procs {
		p.lose(err)
	}
}
