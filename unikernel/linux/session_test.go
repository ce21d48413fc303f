package linux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestAttachRefusesWhatIsNoGuest(t *testing.T) {
	hello := wire.Hello{Version: wire.Version + 1}.Encode()
	for name, c := range map[string]struct{ bytes, want string }{
		"garbage":       {"SeaBIOS (version 1.16.2)\r\n", "malformed frame"},
		"other frame":   {string(wire.AppendFrame(nil, wire.KindExit, 0, []byte{0})), "does not speak the protocol"},
		"bad hello":     {string(wire.AppendFrame(nil, wire.KindHello, 0, []byte("xxxx"))), "does not speak the protocol"},
		"huge hello":    {string(wire.AppendFrame(nil, wire.KindHello, 0, make([]byte, 4096))), "too large"},
		"other version": {string(wire.AppendFrame(nil, wire.KindHello, 0, hello)), fmt.Sprintf("version %d of the protocol", wire.Version+1)},
		"hung up":       {"", "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := net.Pipe()
			go func() {
				guest.Write([]byte(c.bytes))
				guest.Close()
			}()
			_, err := New(Config{}).Attach(testContext(t), host)
			if !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrUnavailable with %q", err, c.want)
			}
			if _, err := host.Write([]byte("x")); err != io.ErrClosedPipe {
				t.Errorf("the connection was left open: %v", err)
			}
		})
	}
}

func TestAttachEndsWithItsContext(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New(Config{}).Attach(ctx, host)
	if !errors.Is(err, unikernel.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestOutputAndExit(t *testing.T) {
	s, g := attach(t)
	var out, errOut bytes.Buffer
	p, id := runProcess(t, s, g, unikernel.Stdio{Stdout: &out, Stderr: &errOut})
	if _, err := p.Exit(); err == nil {
		t.Error("a running process has an exit")
	}
	for _, word := range []string{"a", "b", "c\n"} {
		g.data(id, wire.Stdout, word)
		g.data(id, wire.Stderr, strings.ToUpper(word))
	}
	g.exit(id, 42)
	within(t, "exit", p.Exited())
	within(t, "drain", p.Drained())
	x, err := p.Exit()
	if err != nil || x.Status != 42 || x.At.IsZero() {
		t.Errorf("exit %+v, %v", x, err)
	}
	if out.String() != "abc\n" || errOut.String() != "ABC\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
	}
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(testContext(t)) }()
	f := g.next(wire.KindShutdown)
	select {
	case err := <-done:
		t.Errorf("Shutdown returned %v before the guest was ready", err)
	default:
	}
	g.reply(f.ID, wire.Reply{})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct {
	release chan struct{}
	bytes.Buffer
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.release
	return w.Buffer.Write(p)
}

// TestAbsentReader: without a reader of stdout, stderr flows, the exit comes,
// and all that was written is there when the reader comes.
func TestAbsentReader(t *testing.T) {
	s, g := attach(t)
	stuck := &stuckWriter{release: make(chan struct{})}
	errR, errW := io.Pipe()
	p, id := runProcess(t, s, g, unikernel.Stdio{Stdout: stuck, Stderr: errW})
	g.drain()
	// All credit, and what the pipe held at the exit.
	chunk := strings.Repeat("x", wire.MaxData)
	sent := 0
	for sent+len(chunk) <= wire.OutWindow+wire.ExitBurst {
		g.data(id, wire.Stdout, chunk)
		sent += len(chunk)
	}
	go g.data(id, wire.Stderr, "flows")
	b := make([]byte, 5)
	if _, err := io.ReadFull(errR, b); err != nil || string(b) != "flows" {
		t.Errorf("stderr: %q, %v", b, err)
	}
	g.exit(id, 0)
	within(t, "exit", p.Exited())
	if !open(p.Drained()) {
		t.Error("drained before anything was read")
	}
	close(stuck.release)
	within(t, "drain", p.Drained())
	if stuck.Len() != sent {
		t.Errorf("%d bytes of %d arrived", stuck.Len(), sent)
	}
}

// TestCredit: the guest gets back what was delivered, and no more.
func TestCredit(t *testing.T) {
	s, g := attach(t)
	stuck := &stuckWriter{release: make(chan struct{})}
	_, id := runProcess(t, s, g, unikernel.Stdio{Stdout: stuck})
	chunk := strings.Repeat("x", wire.MaxData)
	sent := 0
	for sent+len(chunk) <= wire.OutWindow {
		g.data(id, wire.Stdout, chunk)
		sent += len(chunk)
	}
	close(stuck.release)
	given := 0
	for given < sent-creditStep {
		stream, n, err := wire.DecodeCredit(g.next(wire.KindCredit).Payload)
		if err != nil || stream != wire.Stdout {
			t.Fatalf("credit: stream %d, %v", stream, err)
		}
		given += n
	}
	if given > sent {
		t.Errorf("%d bytes of credit for %d bytes", given, sent)
	}
}

// failingWriter is a reader that has gone away.
type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestFailingWriterHoldsNothingUp(t *testing.T) {
	s, g := attach(t)
	p, id := runProcess(t, s, g, unikernel.Stdio{Stdout: failingWriter{}})
	chunk := strings.Repeat("x", wire.MaxData)
	for sent := 0; sent < creditStep; sent += len(chunk) {
		g.data(id, wire.Stdout, chunk)
	}
	g.next(wire.KindCredit)
	go g.exit(id, 1)
	within(t, "exit", p.Exited())
	within(t, "drain", p.Drained())
}

// TestBrokenProtocol: a guest that breaks the rules loses its session, and
// everything that waits for it ends.
func TestBrokenProtocol(t *testing.T) {
	for name, misbehave := range map[string]func(g *fakeGuest, id uint32){
		"floods": func(g *fakeGuest, id uint32) {
			for range (wire.OutWindow+wire.ExitBurst)/wire.MaxData + 2 {
				g.data(id, wire.Stdout, strings.Repeat("x", wire.MaxData))
			}
		},
		"garbage":               func(g *fakeGuest, _ uint32) { g.conn.Write(bytes.Repeat([]byte{0xee}, 64)) },
		"frame too large":       func(g *fakeGuest, id uint32) { g.send(wire.KindData, id, make([]byte, wire.MaxGuestPayload+1)) },
		"no process":            func(g *fakeGuest, _ uint32) { g.data(0, wire.Stdout, "x") },
		"unknown process":       func(g *fakeGuest, _ uint32) { g.data(999, wire.Stdout, "x") },
		"unknown stream":        func(g *fakeGuest, id uint32) { g.data(id, wire.Stderr, "x") },
		"unknown request":       func(g *fakeGuest, _ uint32) { g.reply(12345, wire.Reply{}) },
		"host's frame":          func(g *fakeGuest, _ uint32) { g.send(wire.KindShutdown, 0) },
		"killed nothing":        func(g *fakeGuest, _ uint32) { g.send(wire.KindOOM, 0, []byte{0}) },
		"unknown container":     func(g *fakeGuest, _ uint32) { g.send(wire.KindOOM, 0, wire.OOM{Container: 9, Kills: 1}.Encode()) },
		"empty data":            func(g *fakeGuest, id uint32) { g.data(id, wire.Stdout, "") },
		"two ends":              func(g *fakeGuest, id uint32) { g.eof(id, wire.Stdout); g.eof(id, wire.Stdout) },
		"bad exit":              func(g *fakeGuest, id uint32) { g.send(wire.KindExit, id, wire.Exit{Status: 999}.Encode()) },
		"data after end":        func(g *fakeGuest, id uint32) { g.eof(id, wire.Stdout); g.data(id, wire.Stdout, "x") },
		"credit out of nothing": func(g *fakeGuest, id uint32) { g.send(wire.KindCredit, id, wire.EncodeCredit(wire.Stdin, 10)) },
		"hangs up":              func(g *fakeGuest, _ uint32) { g.conn.Close() },
		"hangs up in a frame":   func(g *fakeGuest, _ uint32) { g.conn.Write([]byte{7, 1}); g.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s, g := attach(t)
			stuck := &stuckWriter{release: make(chan struct{})}
			defer close(stuck.release)
			p, id := runProcess(t, s, g, unikernel.Stdio{Stdout: stuck})
			go misbehave(g, id)
			within(t, "end of the process", p.Exited())
			if _, err := p.Exit(); !errors.Is(err, unikernel.ErrUnavailable) {
				t.Errorf("exit: %v", err)
			}
			if _, err := s.Exec(t.Context(), "x", testApp().Spec.Process, unikernel.Stdio{}); !errors.Is(err, unikernel.ErrUnavailable) {
				t.Errorf("exec: %v", err)
			}
			if err := s.Shutdown(t.Context()); !errors.Is(err, unikernel.ErrUnavailable) {
				t.Errorf("shutdown: %v", err)
			}
		})
	}
}

// TestLateFrames: the guest's sender of credit does not wait for its sender of
// exits, so what is said of a process that is gone ends nothing.
func TestLateFrames(t *testing.T) {
	s, g := attach(t)
	p, _ := runProcess(t, s, g, unikernel.Stdio{})
	started := make(chan unikernel.Process, 1)
	go func() {
		e, err := s.Exec(testContext(t), "x", testApp().Spec.Process, unikernel.Stdio{Stdin: strings.NewReader("x"), Stdout: io.Discard})
		if err != nil {
			t.Error(err)
		}
		started <- e
	}()
	id := g.acceptStart()
	e := <-started
	g.next(wire.KindData)
	g.next(wire.KindEOF)
	g.exitStdout(id, 0)
	within(t, "drain", e.Drained())
	g.send(wire.KindCredit, id, wire.EncodeCredit(wire.Stdin, 1))
	g.data(id, wire.Stdout, "late")
	g.exitStdout(id, 0)
	go func() { g.reply(g.next(wire.KindResize).ID, wire.Reply{}) }()
	if err := p.Resize(testContext(t), 1, 1); err != nil {
		t.Errorf("the session ended: %v", err)
	}
	for range maxLate/wire.MaxData + 1 { // what no honest guest does has an end
		g.data(id, wire.Stdout, strings.Repeat("x", wire.MaxData))
	}
	within(t, "end of the session", p.Exited())
}

// TestOOM: a want of memory is told before the exit that it caused.
func TestOOM(t *testing.T) {
	s, g := attach(t)
	told := make(chan struct{}, 2)
	s.OnOOM(func() { told <- struct{}{} })
	p, id := runProcess(t, s, g, unikernel.Stdio{})
	g.send(wire.KindOOM, 0, wire.OOM{Container: 1, Kills: 2}.Encode())
	g.send(wire.KindExit, id, wire.Exit{Status: 137}.Encode())
	within(t, "exit", p.Exited())
	if len(told) != 1 {
		t.Errorf("told %d times before the exit", len(told))
	}
}

// TestLostSessionDeliversWhatCame: output that arrived before the end is not
// lost with the session.
func TestLostSessionDeliversWhatCame(t *testing.T) {
	s, g := attach(t)
	var out bytes.Buffer
	p, id := runProcess(t, s, g, unikernel.Stdio{Stdout: &out})
	g.data(id, wire.Stdout, "last words")
	g.conn.Close()
	within(t, "drain", p.Drained())
	if out.String() != "last words" {
		t.Errorf("output %q", out.String())
	}
}

func TestErrorsOfTheGuest(t *testing.T) {
	for code, want := range map[wire.Code]error{
		wire.CodeNotFound: unikernel.ErrNotFound, wire.CodeInvalid: unikernel.ErrInvalid,
	} {
		s, g := attach(t)
		go func() { g.reply(g.next(wire.KindRun).ID, wire.Reply{Code: code, Text: "words of runc"}) }()
		_, err := s.Run(testContext(t), testApp(), unikernel.Stdio{})
		if !errors.Is(err, want) || err.Error() != "words of runc" {
			t.Errorf("code %d: %v", code, err)
		}
	}
	forged := replyError(wire.Reply{Code: wire.CodeInvalid, Text: "no\n\x1b[2Jlevel=info"})
	if forged.Error() != "no ?[2Jlevel=info" {
		t.Errorf("an error of the guest is passed on raw: %q", forged)
	}
	long := replyError(wire.Reply{Code: 77, Text: strings.Repeat("x", 60<<10)})
	if len(long.Error()) > 2*maxErrorText {
		t.Errorf("an error text of %d bytes came through", len(long.Error()))
	}
}

func TestRunOnce(t *testing.T) {
	s, g := attach(t)
	if _, err := s.Exec(t.Context(), "x", testApp().Spec.Process, unikernel.Stdio{}); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("exec before run: %v", err)
	}
	runProcess(t, s, g, unikernel.Stdio{})
	if _, err := s.Run(t.Context(), testApp(), unikernel.Stdio{}); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("second run: %v", err)
	}
}

// TestAbandonedStart: a process that starts after its caller gave up is killed,
// and its output bothers nobody.
func TestAbandonedStart(t *testing.T) {
	s, g := attach(t)
	p, _ := runProcess(t, s, g, unikernel.Stdio{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := s.Exec(ctx, "x", testApp().Spec.Process, unikernel.Stdio{Stdout: io.Discard})
		got <- err
	}()
	f := g.next(wire.KindExec)
	x, err := wire.DecodeStart(f.Payload)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-got; !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("exec: %v", err)
	}
	g.reply(f.ID, wire.Reply{})
	kill := g.next(wire.KindSignal)
	sig, err := wire.DecodeSignal(kill.Payload)
	if err != nil || sig.Process != x.ID || sig.Signal != uint32(syscall.SIGKILL) {
		t.Errorf("signal %+v, %v", sig, err)
	}
	g.reply(kill.ID, wire.Reply{})
	g.data(x.ID, wire.Stdout, "late")
	g.exitStdout(x.ID, 137)
	// The session is alive.
	go func() { g.reply(g.next(wire.KindResize).ID, wire.Reply{Code: wire.CodeInvalid, Text: "no terminal"}) }()
	if err := p.Resize(testContext(t), 1, 1); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("resize: %v", err)
	}
}

// exitStdout ends a process that has stdout only.
func (g *fakeGuest) exitStdout(proc, status uint32) {
	g.eof(proc, wire.Stdout)
	g.send(wire.KindExit, proc, wire.Exit{Status: status}.Encode())
}

// TestUnwillingGuest: a guest that does not read must not hold up its caller.
func TestUnwillingGuest(t *testing.T) {
	s, g := attach(t)
	p, _ := runProcess(t, s, g, unikernel.Stdio{})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 3)
	for range 3 {
		go func() { got <- p.Signal(ctx, syscall.SIGTERM, false) }()
	}
	cancel()
	for range 3 {
		if err := <-got; !errors.Is(err, unikernel.ErrUnavailable) {
			t.Errorf("signal: %v", err)
		}
	}
}

func TestSignalResize(t *testing.T) {
	s, g := attach(t)
	p, id := runProcess(t, s, g, unikernel.Stdio{})
	go func() {
		f := g.next(wire.KindSignal)
		sig, err := wire.DecodeSignal(f.Payload)
		if err != nil || sig != (wire.Signal{Process: id, Signal: 10, All: true}) {
			t.Errorf("signal %+v, %v", sig, err)
		}
		g.reply(f.ID, wire.Reply{})
		f = g.next(wire.KindResize)
		size, err := wire.DecodeResize(f.Payload)
		if err != nil || size != (wire.Resize{Process: id, Width: 80, Height: 24}) {
			t.Errorf("resize %+v, %v", size, err)
		}
		g.reply(f.ID, wire.Reply{})
		g.send(wire.KindExit, id, wire.Exit{}.Encode())
	}()
	if err := p.Signal(testContext(t), syscall.SIGUSR1, true); err != nil {
		t.Error(err)
	}
	if err := p.Resize(testContext(t), 80, 24); err != nil {
		t.Error(err)
	}
	within(t, "exit", p.Exited())
	if err := p.Signal(t.Context(), syscall.SIGKILL, false); !errors.Is(err, unikernel.ErrNotFound) || err.Error() != "process already finished" {
		t.Errorf("signal after the exit: %v", err)
	}
}

// TestStdin: input flows within its credit, then ends.
func TestStdin(t *testing.T) {
	s, g := attach(t)
	text := strings.Repeat("0123456789", 20_000)
	_, id := runProcess(t, s, g, unikernel.Stdio{Stdin: strings.NewReader(text)})
	var got bytes.Buffer
	unacknowledged := 0
	for {
		g.conn.SetReadDeadline(deadline())
		f, err := g.r.Read()
		if err != nil {
			t.Fatal(err)
		}
		stream, data, err := wire.DecodeStream(f.Payload)
		if err != nil || stream != wire.Stdin || f.ID != id {
			t.Fatalf("stream %d of process %d, %v", stream, f.ID, err)
		}
		if f.Kind == wire.KindEOF {
			break
		}
		got.Write(data)
		if unacknowledged += len(data); unacknowledged > wire.InWindow {
			t.Fatalf("%d bytes without credit", unacknowledged)
		}
		if unacknowledged == wire.InWindow || got.Len() == len(text) {
			g.send(wire.KindCredit, id, wire.EncodeCredit(wire.Stdin, unacknowledged))
			unacknowledged = 0
		}
	}
	if got.String() != text {
		t.Errorf("%d bytes arrived of %d", got.Len(), len(text))
	}
}

// TestCloseStdin: what a pipe holds arrives before the end, though its other
// end stays open.
func TestCloseStdin(t *testing.T) {
	s, g := attach(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p, _ := runProcess(t, s, g, unikernel.Stdio{Stdin: r})
	for _, word := range []string{"one ", "two"} {
		if _, err := w.WriteString(word); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.CloseStdin(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var got string
	for !strings.HasSuffix(got, "two") {
		_, data, _ := wire.DecodeStream(g.next(wire.KindData).Payload)
		got += string(data)
	}
	g.next(wire.KindEOF)
	if got != "one two" {
		t.Errorf("input %q", got)
	}
	if err := p.CloseStdin(testContext(t)); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// TestCloseStdinOfAnyReader: a Read that waits does not keep the end back.
func TestCloseStdinOfAnyReader(t *testing.T) {
	s, g := attach(t)
	r, w := io.Pipe()
	defer w.Close()
	p, _ := runProcess(t, s, g, unikernel.Stdio{Stdin: r})
	go io.WriteString(w, "text")
	g.next(wire.KindData)
	go p.CloseStdin(testContext(t))
	g.next(wire.KindEOF)
}

func TestClose(t *testing.T) {
	s, g := attach(t)
	p, _ := runProcess(t, s, g, unikernel.Stdio{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Exit(); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("exit: %v", err)
	}
	if _, err := s.Exec(t.Context(), "x", &specs.Process{Args: []string{"x"}, Cwd: "/"}, unikernel.Stdio{}); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("exec: %v", err)
	}
}
