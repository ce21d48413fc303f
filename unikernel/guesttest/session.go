package guesttest

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Subject is a session that was attached and has run nothing, with what the test
// needs to know of it.
type Subject struct {
	Session unikernel.Session
	// App's program runs until End.
	App unikernel.App
	// End has a process exit with a status.
	End func(p unikernel.Process, status uint32)
	// Exec is a further process that runs until End, Missing one whose program
	// is not there; both nil for a guest that runs one process.
	Exec, Missing *specs.Process
	// Break has the guest go away.
	Break func()
}

// timeout bounds whatever happens at once unless something is broken.
const timeout = time.Minute

// Session tests the session that make returns; each call of it returns a new one.
func Session(t *testing.T, make func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		do   func(*testing.T, Subject)
	}{
		{"run", testRun},
		{"exec", testExec},
		{"close", testClose},
		{"break", testBreak},
	} {
		t.Run(test.name, func(t *testing.T) { test.do(t, make(t)) })
	}
}

func start(t *testing.T, s Subject) unikernel.Process {
	t.Helper()
	p, err := s.Session.Run(bounded(t), s.App, unikernel.Stdio{})
	if err != nil {
		t.Fatalf("run: %v", err)
	}
	return p
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(timeout):
		t.Fatalf("%s: not within %v", what, timeout)
	}
}

// want fails the test unless an error is of a class.
func want(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: error %v, want one that is %q", what, err, class)
	}
}

// running checks what holds for a process that has not exited.
func running(t *testing.T, p unikernel.Process) {
	t.Helper()
	select {
	case <-p.Exited():
		t.Fatal("the process exited at once")
	case <-p.Drained():
		t.Fatal("all output was read, and the process has not exited")
	default:
	}
	_, err := p.Exit()
	want(t, "exit of a running process", err, unikernel.ErrInvalid)
	want(t, "signal 200", p.Signal(bounded(t), 200, false), unikernel.ErrInvalid)
	for range 2 {
		if err := p.CloseStdin(bounded(t)); err != nil {
			t.Errorf("close input: %v", err)
		}
	}
}

// exits checks what holds for one that has exited with a status.
func exits(t *testing.T, p unikernel.Process, status uint32, since time.Time) {
	t.Helper()
	within(t, "exit", p.Exited())
	within(t, "drain", p.Drained())
	for range 2 {
		x, err := p.Exit()
		if err != nil || x.Status != status || x.At.Before(since) || x.At.After(time.Now()) {
			t.Errorf("exit %+v, %v; want status %d since %v", x, err, status, since)
		}
	}
	want(t, "signal after the exit", p.Signal(bounded(t), syscall.SIGTERM, false), unikernel.ErrNotFound)
	want(t, "signal of all after the exit", p.Signal(bounded(t), syscall.SIGKILL, true), unikernel.ErrNotFound)
	if err := p.CloseStdin(bounded(t)); err != nil {
		t.Errorf("close input after the exit: %v", err)
	}
}

// testRun runs the first process to its end.
func testRun(t *testing.T, s Subject) {
	if s.Exec != nil {
		_, err := s.Session.Exec(bounded(t), "x", s.Exec, unikernel.Stdio{})
		want(t, "exec before run", err, unikernel.ErrInvalid)
	}
	since := time.Now()
	p := start(t, s)
	_, err := s.Session.Run(bounded(t), s.App, unikernel.Stdio{})
	want(t, "run again", err, unikernel.ErrInvalid)
	running(t, p)
	s.End(p, 42)
	exits(t, p, 42, since)
	if s.Exec != nil {
		_, err := s.Session.Exec(bounded(t), "x", s.Exec, unikernel.Stdio{})
		want(t, "exec after the exit", err, unikernel.ErrInvalid)
	}
	if err := s.Session.Shutdown(bounded(t)); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// testExec runs processes beside the first.
func testExec(t *testing.T, s Subject) {
	first := start(t, s)
	if s.Exec == nil {
		_, err := s.Session.Exec(bounded(t), "x", &specs.Process{Args: []string{"x"}, Cwd: "/"}, unikernel.Stdio{})
		want(t, "exec in a guest that runs one process", err, unikernel.ErrNotImplemented)
		s.End(first, 0)
		within(t, "exit", first.Exited())
		return
	}
	_, err := s.Session.Exec(bounded(t), "m", s.Missing, unikernel.Stdio{})
	want(t, "exec of what is not there", err, unikernel.ErrNotFound)
	since := time.Now()
	a, err := s.Session.Exec(bounded(t), "a", s.Exec, unikernel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Session.Exec(bounded(t), "b", s.Exec, unikernel.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	running(t, a)
	if err := a.Signal(bounded(t), syscall.SIGKILL, false); err != nil {
		t.Errorf("SIGKILL: %v", err)
	}
	exits(t, a, 137, since)
	running(t, b)
	s.End(b, 3)
	exits(t, b, 3, since)
	running(t, first)
	s.End(first, 0)
	exits(t, first, 0, since)
}

// lost checks a process that the session ended before it exited.
func lost(t *testing.T, p unikernel.Process) {
	t.Helper()
	within(t, "end of the process", p.Exited())
	within(t, "drain", p.Drained())
	_, err := p.Exit()
	want(t, "exit", err, unikernel.ErrUnavailable)
	if p.Signal(bounded(t), syscall.SIGTERM, false) == nil {
		t.Error("a signal reached a process of a session that ended")
	}
}

// over checks a session that ended.
func over(t *testing.T, s Subject) {
	t.Helper()
	if s.Exec != nil {
		_, err := s.Session.Exec(bounded(t), "x", s.Exec, unikernel.Stdio{})
		want(t, "exec", err, unikernel.ErrUnavailable)
		want(t, "shutdown", s.Session.Shutdown(bounded(t)), unikernel.ErrUnavailable)
	}
}

// testClose closes the session under its processes.
func testClose(t *testing.T, s Subject) {
	processes := []unikernel.Process{start(t, s)}
	if s.Exec != nil {
		p, err := s.Session.Exec(bounded(t), "x", s.Exec, unikernel.Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		processes = append(processes, p)
	}
	for range 2 {
		if err := s.Session.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	for _, p := range processes {
		lost(t, p)
	}
	over(t, s)
}

// testBreak has the guest go away under its processes.
func testBreak(t *testing.T, s Subject) {
	p := start(t, s)
	s.Break()
	lost(t, p)
	over(t, s)
	if err := s.Session.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
