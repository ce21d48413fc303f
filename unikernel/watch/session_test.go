package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/guesttest"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fakeMachine is a machine whose console and end the test makes.
type fakeMachine struct {
	console *io.PipeReader
	guest   *io.PipeWriter
	end     chan unikernel.End
	pressed int
}

func newMachine() *fakeMachine {
	m := &fakeMachine{end: make(chan unikernel.End, 1)}
	m.console, m.guest = io.Pipe()
	return m
}

func (m *fakeMachine) Console() io.ReadCloser            { return m.console }
func (m *fakeMachine) PowerButton(context.Context) error { m.pressed++; return nil }
func (m *fakeMachine) Record() ([]byte, error)           { return nil, errors.ErrUnsupported }
func (m *fakeMachine) Ended(ctx context.Context) (unikernel.End, error) {
	select {
	case end := <-m.end:
		return end, nil
	case <-ctx.Done():
		return unikernel.End{}, ctx.Err()
	}
}

// testGuest drops the letter k from its console, and 42 is its status when it
// powers off.
var testGuest = Guest{
	Refuse: func(what string) error { return fmt.Errorf("%w: %s", unikernel.ErrNotImplemented, what) },
	Output: func(w io.Writer) io.WriteCloser { return &dropK{tolerant{out: w}} },
	Exit: func(end unikernel.End, _ unikernel.Watched) (uint32, error) {
		if end.Reason != unikernel.EndShutdown {
			return 0, unikernel.ErrUnavailable
		}
		return 42, nil
	},
	Load: time.Millisecond, Silence: time.Hour,
}

type dropK struct{ tolerant }

func (d *dropK) Write(p []byte) (int, error) {
	_, _ = d.tolerant.Write(bytes.ReplaceAll(p, []byte("k"), nil))
	return len(p), nil
}

func run(t *testing.T, m *fakeMachine, out io.Writer) (unikernel.Session, unikernel.Process) {
	t.Helper()
	s := New(testGuest, m)
	p, err := s.Run(t.Context(), unikernel.App{}, unikernel.Stdio{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, p
}

func TestProcess(t *testing.T) {
	m := newMachine()
	var out bytes.Buffer
	s, p := run(t, m, &out)
	if _, err := s.Run(t.Context(), unikernel.App{}, unikernel.Stdio{}); err == nil {
		t.Error("the program was started twice")
	}
	if _, err := m.guest.Write([]byte("khellok\n")); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM, false); err != nil || m.pressed != 1 {
		t.Errorf("SIGTERM: %v, the button was pressed %d times", err, m.pressed)
	}
	for _, err := range []error{
		p.Signal(t.Context(), syscall.SIGKILL, true), p.Signal(t.Context(), syscall.SIGTSTP, false), p.Resize(t.Context(), 80, 25),
		errOf(s.Exec(t.Context(), "e", nil, unikernel.Stdio{})),
	} {
		if !errors.Is(err, unikernel.ErrNotImplemented) {
			t.Errorf("%v, want ErrNotImplemented", err)
		}
	}
	at := time.Now()
	m.end <- unikernel.End{Reason: unikernel.EndShutdown, At: at}
	m.guest.Close()
	<-p.Exited()
	<-p.Drained()
	if exit, err := p.Exit(); err != nil || exit.Status != 42 || !exit.At.Equal(at) {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if out.String() != "hello\n" {
		t.Errorf("output %q", out.String())
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM, false); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("a signal after the exit: %v", err)
	}
}

func TestConformance(t *testing.T) {
	guesttest.Session(t, func(t *testing.T) guesttest.Subject {
		m := newMachine()
		g := testGuest
		g.Load, g.Silence = 0, 0
		var status uint32
		g.Exit = func(end unikernel.End, _ unikernel.Watched) (uint32, error) {
			if end.Reason != unikernel.EndShutdown {
				return 0, unikernel.ErrUnavailable
			}
			return status, nil
		}
		s := New(g, m)
		t.Cleanup(func() { s.Close() })
		over := func(reason unikernel.EndReason) {
			m.end <- unikernel.End{Reason: reason, At: time.Now()}
			m.guest.Close()
		}
		return guesttest.Subject{
			Session: s,
			End:     func(_ unikernel.Process, n uint32) { status = n; over(unikernel.EndShutdown) },
			Break:   func() { over(unikernel.EndFailed) },
		}
	})
}

// TestSignals: which signals press the power button. The stop signals are those
// of the official images of nginx, postgres, haproxy and httpd, and of systemd.
func TestSignals(t *testing.T) {
	for _, tt := range []struct {
		sig     syscall.Signal
		stop    string
		pressed int
		err     error
	}{
		{syscall.SIGTERM, "", 1, nil},
		{syscall.SIGINT, "", 1, nil},
		{syscall.SIGQUIT, "", 1, nil},
		{syscall.SIGHUP, "", 1, nil},
		{syscall.SIGUSR1, "", 1, nil},
		{37, "", 1, nil},
		{64, "", 1, nil},
		{0, "", 0, nil},
		{syscall.SIGWINCH, "", 0, nil},
		{syscall.SIGWINCH, "SIGTERM", 0, nil},
		{syscall.SIGWINCH, "SIGWINCH", 1, nil},
		{syscall.SIGWINCH, "winch", 1, nil},
		{syscall.SIGWINCH, "28", 1, nil},
		{syscall.SIGCONT, "SIGWINCH", 0, nil},
		{syscall.SIGCHLD, "", 0, nil},
		{syscall.SIGURG, "", 0, nil},
		{syscall.SIGSTOP, "", 0, unikernel.ErrNotImplemented},
		{syscall.SIGTTIN, "", 0, unikernel.ErrNotImplemented},
		{65, "", 0, unikernel.ErrInvalid},
		{-1, "", 0, unikernel.ErrInvalid},
	} {
		m := newMachine()
		g := testGuest
		g.Load, g.Silence = 0, 0
		s := New(g, m)
		t.Cleanup(func() { s.Close() })
		app := unikernel.App{Spec: &specs.Spec{Annotations: map[string]string{stopAnnotation: tt.stop}}}
		p, err := s.Run(t.Context(), app, unikernel.Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(t.Context(), tt.sig, false); !errors.Is(err, tt.err) || m.pressed != tt.pressed {
			t.Errorf("signal %d, stop signal %q: pressed %d times, %v; want %d, %v", tt.sig, tt.stop, m.pressed, err, tt.pressed, tt.err)
		}
	}
}

func errOf(_ unikernel.Process, err error) error { return err }

func TestEndWithoutExit(t *testing.T) {
	for name, make := range map[string]func(unikernel.Session, *fakeMachine){
		"failed": func(_ unikernel.Session, m *fakeMachine) { m.end <- unikernel.End{Reason: unikernel.EndFailed} },
		"closed": func(s unikernel.Session, _ *fakeMachine) { s.Close() },
	} {
		m := newMachine()
		s, p := run(t, m, nil)
		make(s, m)
		<-p.Exited()
		if _, err := p.Exit(); !errors.Is(err, unikernel.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCloseWhileNobodyReads: Close returns although the output blocks.
func TestCloseWhileNobodyReads(t *testing.T) {
	m := newMachine()
	r, w := io.Pipe()
	s, p := run(t, m, w)
	go func() { _, _ = m.guest.Write([]byte("x\n")) }()
	s.Close()
	r.Close()
	<-p.Drained()
}

// TestAtOnce: without times to wait for, a guest that has said nothing gets
// SIGTERM; all of its console is output, and an output that breaks does no harm.
func TestAtOnce(t *testing.T) {
	m := newMachine()
	g := testGuest
	g.Output, g.Load, g.Silence = nil, 0, 0
	s := New(g, m)
	t.Cleanup(func() { s.Close() })
	out := &short{}
	p, err := s.Run(t.Context(), unikernel.App{}, unikernel.Stdio{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM, false); err != nil || m.pressed != 1 {
		t.Errorf("SIGTERM: %v, the button was pressed %d times", err, m.pressed)
	}
	for _, word := range []string{"kernel", "lost", "lost too"} {
		if _, err := m.guest.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	m.guest.Close()
	<-p.Drained()
	if string(out.got) != "kernel" {
		t.Errorf("output %q", out.got)
	}
}

// short takes one write and fails after that.
type short struct{ got []byte }

func (s *short) Write(p []byte) (int, error) {
	if s.got != nil {
		return 0, io.ErrClosedPipe
	}
	s.got = bytes.Clone(p)
	return len(p), nil
}
