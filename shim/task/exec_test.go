package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func (b *bench) exec(id string) {
	b.t.Helper()
	if err := b.Exec("c", id, &specs.Process{Args: []string{"true"}}, stdio.Config{}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) startExec(id string) {
	b.t.Helper()
	b.exec(id)
	if _, err := b.Start(b.t.Context(), "c", id); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) waitExec(id string) uint32 {
	b.t.Helper()
	exit, err := b.Wait(b.t.Context(), "c", id)
	if err != nil {
		b.t.Fatal(err)
	}
	return exit.Status
}

func TestExecLife(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.exec("x")
	if err := b.Exec("c", "x", &specs.Process{}, stdio.Config{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("same id again: %v", err)
	}
	if err := b.Kill(t.Context(), "c", "x", syscall.SIGTERM, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill before start: %v", err)
	}
	pid, err := b.Start(t.Context(), "c", "x")
	if err != nil || pid != c.Status().Pid {
		t.Fatalf("start: %d, %v", pid, err)
	}
	if _, execs := c.Pids(); !slices.Equal(execs, []string{"x"}) {
		t.Errorf("processes %v", execs)
	}
	if _, err := b.Delete(t.Context(), "c", "x"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete while running: %v", err)
	}
	b.pause()
	if st, _ := b.Status("c", "x"); st.State != Paused {
		t.Errorf("state in a paused container: %s", st.State)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Kill(t.Context(), "c", "x", syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if got := b.waitExec("x"); got != 137 {
		t.Errorf("status %d", got)
	}
	if err := b.Kill(t.Context(), "c", "x", syscall.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill after exit: %v", err)
	}
	st, err := b.Delete(t.Context(), "c", "x")
	if err != nil || st.Exit.Status != 137 {
		t.Errorf("delete: %+v, %v", st, err)
	}
	if _, err := b.Status("c", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("status after delete: %v", err)
	}
	b.wantEvents("create", "start", "added x", "started x", "paused", "resumed", "exit x")
}

func TestExecProgramMissing(t *testing.T) {
	b := newBench(t)
	b.must(true)
	b.session.onExec = func(string) error {
		return fmt.Errorf("exec: %q: executable file not found in $PATH: %w", "nosuch", unikernel.ErrNotFound)
	}
	b.exec("x")
	_, err := b.Start(t.Context(), "c", "x")
	want := `OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuch": executable file not found`
	if err == nil || !strings.HasPrefix(err.Error(), want) || errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if got := b.waitExec("x"); got != 127 {
		t.Errorf("status %d", got)
	}
	if _, err := b.Delete(t.Context(), "c", "x"); err != nil {
		t.Error(err)
	}
	b.wantEvents("create", "start", "added x")
}

func TestExecNeedsARunningContainer(t *testing.T) {
	b := newBench(t)
	b.must(false)
	b.exec("x")
	if _, err := b.Start(t.Context(), "c", "x"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("before the container's start: %v", err)
	}
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	b.pause()
	if _, err := b.Start(t.Context(), "c", "x"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("while paused: %v", err)
	}
	b.kill(syscall.SIGKILL)
	b.wait()
	if _, err := b.Start(t.Context(), "c", "x"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after the exit: %v", err)
	}
	err := b.Exec("c", "y", &specs.Process{}, stdio.Config{})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec after the exit: %v", err)
	}
}

// TestInitExitIsTheLast: the container's exit is published after that of every
// further process, whether the guest reports those or not.
func TestInitExitIsTheLast(t *testing.T) {
	for name, reported := range map[string]bool{"reported": true, "not reported": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.must(true)
			b.startExec("x")
			b.session.init.end(0)
			if reported {
				b.session.exec("x").end(137)
			}
			b.wait()
			if got := b.waitExec("x"); got != 137 {
				t.Errorf("status %d", got)
			}
			b.wantEvents("create", "start", "added x", "started x", "exit x", "exit")
		})
	}
}

// TestExitDuringExecStart: the container exits while the guest starts a
// further process.
func TestExitDuringExecStart(t *testing.T) {
	for name, result := range map[string]error{"it starts": nil, "it fails": unikernel.ErrUnavailable} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.must(true)
			b.exec("x")
			b.session.onExec = func(string) error {
				b.session.init.end(3)
				return result
			}
			_, err := b.Start(t.Context(), "c", "x")
			if (err == nil) != (result == nil) {
				t.Errorf("start: %v", err)
			}
			if got := b.wait(); got != 3 {
				t.Errorf("status %d", got)
			}
			events := b.events.names()
			if events[len(events)-1] != "exit" {
				t.Errorf("the container's exit is not the last event: %v", events)
			}
			if _, err := b.Start(t.Context(), "c", "x"); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("start again: %v", err)
			}
			b.remove()
			b.wantNothing()
		})
	}
}

func TestSignalWhileExecStarts(t *testing.T) {
	b := newBench(t)
	b.must(true)
	b.exec("x")
	b.session.onExec = func(string) error {
		return errors.Join(
			b.Kill(context.Background(), "c", "x", syscall.SIGHUP, false),
			b.ResizePty(context.Background(), "c", "x", 10, 20))
	}
	if _, err := b.Start(t.Context(), "c", "x"); err != nil {
		t.Fatal(err)
	}
	p := b.session.exec("x")
	if got := p.got(); !slices.Equal(got, []syscall.Signal{syscall.SIGHUP}) {
		t.Errorf("signals %v", got)
	}
	if p.size != (window{10, 20}) {
		t.Errorf("size %v", p.size)
	}
}
