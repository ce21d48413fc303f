package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"containerd-shim-uni/shim/hooks"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var (
	errKilled       = errors.New("it was killed")
	errMachineEnded = errors.New("its machine ended")
	errBootTimeout  = errors.New("the guest did not answer")
)

// Start runs the container's process, in a machine that boots if it is its own. Once it has
// begun it goes on to an end of its own, also when ctx ends: a client that goes
// away does not leave a machine half started.
func (c *Container) Start(ctx context.Context) (pid int, err error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	c.mu.Lock()
	if err := c.allow(opStart); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	c.cancelBoot = cancel
	c.mu.Unlock()

	bootCtx, cancelTimeout := context.WithTimeoutCause(ctx, c.bootTimeout(),
		fmt.Errorf("%w within %s (machine.boot_timeout)", errBootTimeout, c.bootTimeout()))
	proc, err := c.boot(bootCtx)
	if err == nil {
		err = c.ran(proc)
	} else if cause := context.Cause(bootCtx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	cancelTimeout()
	if err != nil {
		return 0, c.startFailed(err)
	}
	c.booted <- boot{process: proc}
	close(c.booted)
	if err := hooks.Started(ctx, c.app, c.bundle, c.standIn.Pid()); err != nil {
		c.log().WithError(err).Warn("the container runs, although a hook failed") // as the specification wants it
	}
	c.deliverPending(ctx)
	return c.standIn.Pid(), nil
}

// boot returns the container's process, running.
func (c *Container) boot(ctx context.Context) (unikernel.Process, error) {
	if err := c.streams.OpenStdin(); err != nil {
		return nil, err
	}
	in, err := c.place.enter(ctx)
	if err != nil {
		return nil, err
	}
	in.OnOOM(c.outOfMemory)
	defer c.took("process", time.Now())
	c.mu.Lock()
	c.in = in
	if p, w := c.app.Spec.Process, c.window; w != nil && p.Terminal {
		p.ConsoleSize = &specs.Box{Width: uint(w.width), Height: uint(w.height)}
	}
	c.mu.Unlock()
	c.tellSpace(ctx, in)
	proc, err := in.Run(ctx, c.streams.Stdio())
	if err != nil {
		return nil, &programError{err}
	}
	return proc, nil
}

// programError is what a booted guest said of the program it was to run. What
// is not found or invalid before that is no program.
type programError struct{ error }

func (e *programError) Unwrap() error { return e.error }

// unstartable returns the exit status of a container whose program could not
// be started, if err says that.
func unstartable(err error) (status uint32, ok bool) {
	var p *programError
	switch {
	case !errors.As(err, &p) || errors.Is(err, errKilled):
		return 0, false
	case errors.Is(p, unikernel.ErrNotFound):
		return statusNotFound, true
	case errors.Is(p, unikernel.ErrInvalid):
		return statusNotExecutable, true
	default:
		return 0, false
	}
}

// ran announces the process. Nothing of it was announced before.
func (c *Container) ran(proc unikernel.Process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.allow(opRan); err != nil {
		return err
	}
	c.process, c.started = proc, time.Now()
	c.events.Send(&events.TaskStart{ContainerID: c.names.ID, Pid: uint32(c.standIn.Pid())})
	if c.lastOOM != (time.Time{}) {
		c.events.Send(&events.TaskOOM{ContainerID: c.names.ID})
	}
	return nil
}

// oomInterval is the least time between two events of a container that its
// memory ran out: a program that starts greedy children for ever shall not
// flood containerd.
const oomInterval = time.Second

// outOfMemory announces that the guest's kernel killed a process for want of
// memory, after the container's start and before its exit.
func (c *Container) outOfMemory() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == Stopped || c.state == Deleting || time.Since(c.lastOOM) < oomInterval {
		return
	}
	c.lastOOM = time.Now()
	if c.state != Starting { // else see ran
		c.events.Send(&events.TaskOOM{ContainerID: c.names.ID})
	}
}

// startFailed leaves it to watch to end the container, waits until it has, and
// returns what the client is told.
func (c *Container) startFailed(err error) error {
	advice := ""
	if _, ok := unstartable(err); ok {
		if text := c.advice(); text != "" { // while the disk is there
			advice = "; " + text
		}
	}
	c.mu.Lock()
	c.startErr = err
	c.mu.Unlock()
	c.booted <- boot{err: err}
	close(c.booted)
	<-c.exited

	// Without the guest's own error class: containerd would take "not found"
	// for a container that is not there.
	text := err.Error()
	if _, ok := unstartable(err); ok {
		return fmt.Errorf("OCI runtime start failed: unable to start container process: %s%s", text, advice)
	}
	if errors.Is(err, unikernel.ErrNotImplemented) {
		return fmt.Errorf("OCI runtime start failed: %w", err)
	}
	if !c.wasKilled() {
		if lines := c.sandbox.Tail(consoleInError); len(lines) > 0 {
			text += fmt.Sprintf("; the console's last lines: %q", lines)
		}
	}
	return fmt.Errorf("OCI runtime start failed: container %s: %s", c.names.ID, text)
}

// consoleInError and consoleInLog are how many lines of the console go there.
const (
	consoleInError = 5
	consoleInLog   = 25
)
