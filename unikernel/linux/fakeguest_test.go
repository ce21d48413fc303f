package linux

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// testTimeout bounds a wait that ends at once unless something is broken.
const testTimeout = 20 * time.Second

// fakeGuest is the guest's end of a control channel, played by a test.
type fakeGuest struct {
	t    testing.TB
	conn net.Conn
	r    *wire.Reader
	wmu  sync.Mutex

	// skew is how far its clock is ahead of the test's, answer how late it
	// answers; corrections are what it was told.
	cmu         sync.Mutex
	skew        time.Duration
	answer      func(question int) time.Duration
	questions   int
	corrections []time.Duration
	// made are the containers it was asked to make; make answers if it is set.
	made []wire.Container
	make func(request uint32, c wire.Container)
}

// attach connects a session to a fake guest that says hello.
func attach(t testing.TB) (unikernel.Session, *fakeGuest) {
	t.Helper()
	host, guest := net.Pipe()
	g := &fakeGuest{t: t, conn: guest, r: wire.NewReader(guest, wire.MaxHostPayload)}
	go g.send(wire.KindHello, 0, wire.Hello{Version: wire.Version, Kernel: "test"}.Encode())
	s, err := New(Config{}).Attach(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, g
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// send sends one frame; an error shows in what the host does not receive.
func (g *fakeGuest) send(kind wire.Kind, id uint32, payload ...[]byte) {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	g.conn.Write(wire.AppendFrame(nil, kind, id, payload...))
}

func (g *fakeGuest) reply(id uint32, r wire.Reply) { g.send(wire.KindReply, id, r.Encode()) }

func (g *fakeGuest) data(proc uint32, s wire.Stream, text string) {
	g.send(wire.KindData, proc, []byte{byte(s)}, []byte(text))
}

func (g *fakeGuest) eof(proc uint32, s wire.Stream) { g.send(wire.KindEOF, proc, []byte{byte(s)}) }

// exit ends a process the way the guest does.
func (g *fakeGuest) exit(proc, status uint32) {
	g.eof(proc, wire.Stdout)
	g.eof(proc, wire.Stderr)
	g.send(wire.KindExit, proc, wire.Exit{Status: status}.Encode())
}

// read reads one frame of the host that does not concern the clock, the machine or
// the making of a container.
func (g *fakeGuest) read() (wire.Frame, error) {
	for {
		f, err := g.r.Read()
		if err != nil {
			return f, err
		}
		switch f.Kind {
		case wire.KindClock:
			g.tellTime(f)
		case wire.KindSandbox:
			g.setup(f)
		case wire.KindContainer:
			g.makeContainer(f)
		default:
			return f, nil
		}
	}
}

// setup takes what is the machine's.
func (g *fakeGuest) setup(f wire.Frame) {
	b, err := wire.DecodeSandbox(f.Payload)
	if err != nil {
		g.t.Error(err)
	}
	g.cmu.Lock()
	g.corrections = append(g.corrections, time.Duration(b.Clock.Behind))
	g.skew += time.Duration(b.Clock.Behind)
	g.cmu.Unlock()
	g.reply(f.ID, wire.Reply{})
}

func (g *fakeGuest) makeContainer(f wire.Frame) {
	c, err := wire.DecodeContainer(f.Payload)
	if err != nil {
		g.t.Error(err)
	}
	g.cmu.Lock()
	g.made = append(g.made, c)
	answer := g.make
	g.cmu.Unlock()
	if answer != nil {
		answer(f.ID, c)
		return
	}
	g.reply(f.ID, wire.Reply{})
}

// tellTime answers a question for the time, as uni-init does.
func (g *fakeGuest) tellTime(f wire.Frame) {
	c, err := wire.DecodeClock(f.Payload)
	if err != nil {
		g.t.Error(err)
	}
	g.cmu.Lock()
	now := time.Now().Add(g.skew)
	late := time.Duration(0)
	if c.Behind != 0 {
		g.corrections = append(g.corrections, time.Duration(c.Behind))
		g.skew += time.Duration(c.Behind)
	} else if g.questions++; g.answer != nil {
		late = g.answer(g.questions)
	}
	g.cmu.Unlock()
	time.Sleep(late)
	g.reply(f.ID, wire.Reply{Data: wire.Time{Now: now.UnixNano()}.Encode()})
}

// corrected returns how its clock was corrected since the last call.
func (g *fakeGuest) corrected() []time.Duration {
	g.cmu.Lock()
	defer g.cmu.Unlock()
	c := g.corrections
	g.corrections = nil
	return c
}

// next reads one frame of the host, which must be of that kind.
func (g *fakeGuest) next(kind wire.Kind) wire.Frame {
	g.t.Helper()
	g.conn.SetReadDeadline(time.Now().Add(testTimeout))
	f, err := g.read()
	if err != nil || f.Kind != kind {
		g.t.Errorf("the host sent kind %d, %v; want kind %d", f.Kind, err, kind)
	}
	return f
}

// acceptStart answers the host's request for a process and returns its id.
func (g *fakeGuest) acceptStart() uint32 { return g.accept().ID }

// accept answers the host's request for a process and returns it.
func (g *fakeGuest) accept() wire.Start {
	g.conn.SetReadDeadline(time.Now().Add(testTimeout))
	f, err := g.read()
	if err != nil {
		g.t.Errorf("read a request: %v", err)
		return wire.Start{}
	}
	if f.Kind != wire.KindRun && f.Kind != wire.KindExec {
		g.t.Errorf("the host sent kind %d, not a request for a process", f.Kind)
	}
	x, err := wire.DecodeStart(f.Payload)
	if err != nil {
		g.t.Error(err)
	}
	g.reply(f.ID, wire.Reply{})
	return x
}

// drain reads and drops what the host sends from now on.
func (g *fakeGuest) drain() {
	g.conn.SetReadDeadline(time.Time{})
	go func() {
		for {
			if _, err := g.read(); err != nil {
				return
			}
		}
	}()
}

// testApp is a container without shares.
func testApp() unikernel.App {
	return unikernel.App{Namespace: "default", ID: "c1", Spec: &specs.Spec{
		Version: "1.1.0",
		Process: &specs.Process{Args: []string{"sh"}, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}},
		Root: &specs.Root{Path: "rootfs"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			{Type: specs.NetworkNamespace, Path: "/run/netns/x"}}},
	}}
}

// runProcess starts the container's process against the fake guest.
func runProcess(t *testing.T, s unikernel.Session, g *fakeGuest, io unikernel.Stdio) (unikernel.Process, uint32) {
	t.Helper()
	ids := make(chan uint32, 1)
	go func() { ids <- g.acceptStart() }()
	p, err := s.Run(testContext(t), testApp(), io)
	if err != nil {
		t.Fatal(err)
	}
	return p, <-ids
}

// within fails the test if a channel is not closed soon.
func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(testTimeout):
		t.Fatalf("%s: not within %v", what, testTimeout)
	}
}

func open(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

func deadline() time.Time { return time.Now().Add(testTimeout) }
