package task

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
)

// until waits for what happens soon.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s: " + what)
		}
	}
}

func (b *bench) state() State {
	st, err := b.Status("c", "")
	if err != nil {
		b.t.Fatal(err)
	}
	return st.State
}

// TestGuestThatDoesNotAnswer: nobody waits for it; what it was told it does when it
// goes on.
func TestGuestThatDoesNotAnswer(t *testing.T) {
	b := newBench(t)
	b.must(true)
	b.startExec("x")
	x := b.session.exec("x")
	goOn, xGoesOn := b.session.init.hang(), x.hang()
	defer goOn()
	defer xGoesOn()
	b.kill(syscall.SIGTERM)
	if err := b.ResizePty(t.Context(), "c", "", 80, 25); err != nil {
		t.Errorf("size: %v", err)
	}
	if err := b.Kill(t.Context(), "c", "x", syscall.SIGHUP, false); err != nil {
		t.Errorf("signal for exec: %v", err)
	}
	if got := b.session.init.got(); len(got) > 0 {
		t.Fatalf("signals %v of a guest that does not answer", got)
	}
	goOn()
	xGoesOn()
	until(t, "the signals have come", func() bool {
		return slices.Equal(b.session.init.got(), []syscall.Signal{syscall.SIGTERM}) && slices.Equal(x.got(), []syscall.Signal{syscall.SIGHUP})
	})
}

// TestGuestThatNeverAnswers: questions do not pile up, and SIGKILL ends it.
func TestGuestThatNeverAnswers(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	defer b.session.init.hang()()
	for range maxQuestions {
		go func() { _ = c.Kill(context.Background(), syscall.SIGUSR1, false) }()
	}
	until(t, "all questions are open", func() bool { return len(c.asker.slots) == maxQuestions })
	err := b.Kill(t.Context(), "c", "", syscall.SIGUSR1, false)
	if !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "SIGKILL") {
		t.Errorf("one question more: %v", err)
	}
	b.kill(syscall.SIGKILL)
	if got := b.wait(); got != statusKilled {
		t.Errorf("status %d", got)
	}
	b.remove()
	b.wantNothing()
}

// TestPauseGoesOn: a client that leaves, or a hypervisor that does not answer in
// time, does not set state and machine apart.
func TestPauseGoesOn(t *testing.T) {
	for name, leave := range map[string]bool{"the client leaves": true, "no answer": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c := b.must(true)
			b.host.machines.Stop()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if leave {
				cancel()
			}
			if err := c.Pause(ctx); err == nil || !strings.Contains(err.Error(), "under way") {
				t.Errorf("pause: %v", err)
			}
			b.wantState(Pausing)
			b.kill(syscall.SIGTERM)
			b.host.machines.Continue()
			until(t, "it is paused", func() bool { return b.state() == Paused })
			b.wantEvents("create", "start", "paused")

			b.host.machines.Stop()
			if err := c.Resume(ctx); err == nil {
				t.Error("resume: no error")
			}
			b.wantState(Resuming)
			b.host.machines.Continue()
			until(t, "it runs", func() bool { return b.state() == Running })
			until(t, "the signal has come", func() bool { return len(b.session.init.got()) == 1 })
			b.wantEvents("create", "start", "paused", "resumed")
		})
	}
}

// TestKillWhilePausing: SIGKILL does not wait for a hypervisor.
func TestKillWhilePausing(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.host.machines.Stop()
	_ = c.Pause(t.Context())
	b.kill(syscall.SIGKILL)
	if got := b.wait(); got != statusKilled {
		t.Errorf("status %d", got)
	}
	b.remove()
	b.wantEvents("create", "start", "exit", "delete")
	b.wantNothing()
}

// TestResumeLosesAgainstKill: who resumes a container that is killed meanwhile is told
// so, and not what its machine then did not do.
func TestResumeLosesAgainstKill(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := c.settle(t.Context(), "resume", func() error {
		b.kill(syscall.SIGKILL)
		return errors.New("domain is not running")
	})
	if err == nil || err.Error() != "resume container c: it was killed meanwhile: failed precondition" || !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resume: %v", err)
	}
	if _, err := Stopped.next(opResumed); err == nil || err.Error() != "the container is stopped by now: failed precondition" {
		t.Error(err)
	}
	b.wait()
	b.remove()
	b.wantNothing()
}

// TestSignalDuringAPauseThatFails: it was accepted, so it is delivered.
func TestSignalDuringAPauseThatFails(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.host.machines.Stop()
	b.host.machines.PauseErr = errors.New("no")
	_ = c.Pause(t.Context())
	b.kill(syscall.SIGTERM)
	b.host.machines.Continue()
	until(t, "the signal has come", func() bool { return slices.Equal(b.session.init.got(), []syscall.Signal{syscall.SIGTERM}) })
	b.wantState(Running)
}

// TestSecondSIGKILL: where the first could not end the machine it tries again.
func TestSecondSIGKILL(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.session.init.deaf = true
	b.host.machines.FailDestroy(errors.New("libvirt is gone"))
	b.kill(syscall.SIGKILL)
	c.killing.Wait()
	b.wantState(Running)
	b.host.machines.FailDestroy(nil)
	b.kill(syscall.SIGKILL)
	if got := b.wait(); got != statusKilled {
		t.Errorf("status %d", got)
	}
	b.remove()
	b.wantNothing()
}

// TestDeleteDuringCreate: a creation that is given up leaves nothing, and the shim
// can end next.
func TestDeleteDuringCreate(t *testing.T) {
	b := newBench(t)
	b.host.machines.Stop()
	created := make(chan error, 1)
	go func() { _, err := b.create(); created <- err }()
	until(t, "it is being created", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.creations["c"] != nil
	})
	b.Shutdown() // refused
	if _, err := b.Delete(t.Context(), "c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("delete: %v", err)
	}
	if err := <-created; !errors.Is(err, errGivenUp) {
		t.Errorf("create: %v", err)
	}
	b.wantNothing()
	b.Shutdown()
	<-b.Done()
}

// TestDeleteIsOfOneContainer: one that is late does not drop another container
// that has got the id.
func TestDeleteIsOfOneContainer(t *testing.T) {
	b := newBench(t)
	old := b.must(true)
	b.session.init.end(0)
	b.wait()
	b.remove()
	b.session = newSession()
	b.host.guest.session = b.session
	c := b.must(false)
	b.forget("c", old)
	if got, err := b.Container("c"); err != nil || got != c {
		t.Errorf("%p, %v; want %p", got, err, c)
	}
}

// TestIdle: a shim that nobody asks for a container ends by itself, before the first
// and after the last; one that has some does not.
func TestIdle(t *testing.T) {
	defer func(d time.Duration) { IdleTimeout = d }(IdleTimeout)
	IdleTimeout = 20 * time.Millisecond
	released := make(chan struct{})
	s := NewService("ns", nil, nil, func() { close(released) })
	<-s.Done()
	<-released

	IdleTimeout = time.Hour
	b := newBench(t)
	b.must(true)
	IdleTimeout = 20 * time.Millisecond
	if b.idle.Stop() {
		t.Error("the time runs although there is a container")
	}
	b.session.init.end(0)
	b.wait()
	b.remove()
	<-b.Done()
}

// TestStop: a shim that is told to end takes everything with it.
func TestStop(t *testing.T) {
	b := newBench(t)
	b.must(true)
	b.Stop(t.Context())
	b.wantEvents("create", "start", "exit", "delete")
	b.wantNothing()
	if _, err := b.create(); !errdefs.IsUnavailable(err) {
		t.Errorf("create afterwards: %v", err)
	}
}
