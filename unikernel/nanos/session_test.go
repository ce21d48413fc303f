package nanos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// fakeMachine is a machine whose console and end the test makes.
type fakeMachine struct {
	console   *io.PipeReader
	guest     *io.PipeWriter
	end       chan unikernel.End
	record    []byte
	recordErr error
	pressed   int
}

func newMachine() *fakeMachine {
	m := &fakeMachine{end: make(chan unikernel.End, 1)}
	m.console, m.guest = io.Pipe()
	return m
}

func (m *fakeMachine) Console() io.ReadCloser            { return m.console }
func (m *fakeMachine) PowerButton(context.Context) error { m.pressed++; return nil }
func (m *fakeMachine) Record() ([]byte, error)           { return m.record, m.recordErr }
func (m *fakeMachine) Ended(ctx context.Context) (unikernel.End, error) {
	select {
	case end := <-m.end:
		return end, nil
	case <-ctx.Done():
		return unikernel.End{}, ctx.Err()
	}
}

func run(t *testing.T, m *fakeMachine, out io.Writer) (unikernel.Session, unikernel.Process) {
	t.Helper()
	s := New(Config{}).Watch(m)
	p, err := s.Run(t.Context(), app(), unikernel.Stdio{Stdout: out})
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
	if _, err := s.Run(t.Context(), app(), unikernel.Stdio{}); err == nil {
		t.Error("the program was started twice")
	}
	if _, err := m.guest.Write([]byte("[0.100000] kernel\nhello\n")); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM, false); err != nil || m.pressed != 1 {
		t.Errorf("SIGTERM: %v, the button was pressed %d times", err, m.pressed)
	}
	for _, err := range []error{
		p.Signal(t.Context(), syscall.SIGKILL, true), p.Signal(t.Context(), syscall.SIGHUP, false), p.Resize(t.Context(), 80, 25),
		errOf(s.Exec(t.Context(), "e", nil, unikernel.Stdio{})),
	} {
		if !errors.Is(err, unikernel.ErrNotImplemented) {
			t.Errorf("%v, want ErrNotImplemented", err)
		}
	}
	m.record = []byte("KLOG12345678\x2a\x00\x00\x00")
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

func errOf(_ unikernel.Process, err error) error { return err }

func TestEndWithoutExit(t *testing.T) {
	for name, make := range map[string]func(unikernel.Session, *fakeMachine){
		"failed": func(_ unikernel.Session, m *fakeMachine) { m.end <- unikernel.End{Reason: unikernel.EndFailed} },
		"closed": func(s unikernel.Session, _ *fakeMachine) { s.Close() },
		"no record": func(_ unikernel.Session, m *fakeMachine) {
			m.recordErr = io.EOF
			m.end <- unikernel.End{Reason: unikernel.EndShutdown}
		},
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
