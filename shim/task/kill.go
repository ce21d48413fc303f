package task

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
)

// maxPending bounds the signals kept for a process that cannot take them.
const maxPending = 16

// maxQuestions bounds what a guest is asked at a time.
const maxQuestions = 64

// Kill sends a signal to the container's process, with all to every process of
// the container. SIGKILL always ends the container; a process that is starting
// or paused gets other signals as soon as it runs.
func (c *Container) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	c.mu.Lock()
	if err := c.allow(opKill); err != nil {
		c.mu.Unlock()
		return err
	}
	state, proc := c.state, c.process
	if sig == syscall.SIGKILL || (state == Created && endsCreated(sig)) {
		c.killed = true
		if state == Starting {
			c.cancelBoot(errKilled)
		}
		if !c.forcing {
			c.forcing = true
			// watch waits for it before the container's names are free again.
			c.killing.Go(func() { c.forceEnd(state, proc) })
		}
		c.mu.Unlock()
		return nil
	}
	if state != Running {
		defer c.mu.Unlock()
		return c.keepSignal(state, signal{sig, all})
	}
	c.mu.Unlock()
	return c.tell(ctx, fmt.Sprintf("signal %d", sig), func(ctx context.Context) error {
		return finished(proc.Signal(ctx, sig, all))
	})
}

// endsCreated says that a container whose program has not been started ends by
// a signal: those that end what stands in the program's place under runc.
func endsCreated(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM:
		return true
	default:
		return false
	}
}

// keepSignal remembers a signal for later. The caller holds mu.
func (c *Container) keepSignal(state State, s signal) error {
	if state == Created {
		return fmt.Errorf("container %s: cannot send signal %d: no process has been started: %w",
			c.names.ID, s.number, errdefs.ErrFailedPrecondition)
	}
	if len(c.pending) < maxPending {
		c.pending = append(c.pending, s)
	}
	return nil
}

// forceEnd makes the container end, once at a time: where it fails, a further
// SIGKILL tries again. A guest that runs is asked first, because
// then what the process wrote is not lost; whatever it does, the container ends soon
// after.
func (c *Container) forceEnd(state State, proc unikernel.Process) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forcing = false
	}()
	if state == Running && proc != nil && c.killInGuest(proc) {
		return // watch does the rest
	}
	c.place.expel()
}

// killInGuest asks the guest to kill all processes, and says whether the first
// one is gone.
func (c *Container) killInGuest(proc unikernel.Process) bool {
	timer := time.NewTimer(killSignalTimeout)
	defer timer.Stop()
	answer := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), killSignalTimeout)
		defer cancel()
		answer <- proc.Signal(ctx, syscall.SIGKILL, true)
	}()
	select {
	case err := <-answer:
		if errors.Is(err, unikernel.ErrNotFound) {
			return true // it has just exited by itself
		}
		if err != nil {
			return false
		}
	case <-timer.C:
		return false
	}
	select {
	case <-proc.Exited():
		return true
	case <-c.exited:
		return true
	case <-timer.C:
		return false
	}
}

// endWithHost ends the container when its process on the host ends, as is true
// of other runtimes' containers.
func (c *Container) endWithHost() {
	select {
	case <-c.standIn.Lost():
		_ = c.Kill(context.Background(), syscall.SIGKILL, true) // refused if it has exited by itself
	case <-c.exited:
	}
}

// finished turns a guest's answer about a process that is gone into the one
// that clients of runc know.
func finished(err error) error {
	if errors.Is(err, unikernel.ErrNotFound) {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return err
}
