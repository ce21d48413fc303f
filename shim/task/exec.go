package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// execProcess is a further process of a container.
type execProcess struct {
	id   string
	c    *Container
	spec *specs.Process
	io   stdio.Config

	// exited is closed once exit is set and the event is queued.
	exited chan struct{}

	mu         sync.Mutex // taken after the container's, never before it
	state      execState
	process    unikernel.Process
	streams    *stdio.Streams
	stdinEnded bool // before there were streams
	window     *window
	pending    []signal
	exit       unikernel.Exit
}

// Exec adds a process, to be started later.
func (c *Container) Exec(id string, spec *specs.Process, io stdio.Config) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.allow(opExec); err != nil {
		return err
	}
	if _, taken := c.execs[id]; taken {
		return fmt.Errorf("exec %s in container %s: %w", id, c.names.ID, errdefs.ErrAlreadyExists)
	}
	c.execs[id] = &execProcess{id: id, c: c, spec: spec, io: io, exited: make(chan struct{})}
	c.events.Send(&events.TaskExecAdded{ContainerID: c.names.ID, ExecID: id})
	return nil
}

// execProcess returns a further process by its id.
func (c *Container) execProcess(id string) (*execProcess, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.execs[id]
	if e == nil {
		return nil, fmt.Errorf("process %s of container %s: %w", id, c.names.ID, errdefs.ErrNotFound)
	}
	return e, nil
}

func (e *execProcess) name() string { return e.id + " in container " + e.c.names.ID }

// allow moves the process to the state that follows o. The caller holds mu.
func (e *execProcess) allow(o op) error {
	to, err := e.state.next(o)
	if err != nil {
		return fmt.Errorf("exec %s: %w", e.name(), err)
	}
	e.state = to
	return nil
}

func (e *execProcess) running() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state == execRunning
}

// begin reserves the start of the process: from here until its exit is
// published the container's own exit waits for it.
func (e *execProcess) begin() (inGuest, error) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if e.c.ending {
		return nil, fmt.Errorf("exec %s: the first process of its container has exited: %w", e.name(), errdefs.ErrFailedPrecondition)
	}
	if e.c.state != Running {
		return nil, fmt.Errorf("exec %s: its container is %s, not running: %w", e.name(), e.c.state, errdefs.ErrFailedPrecondition)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.allow(opStart); err != nil {
		return nil, err
	}
	return e.c.in, nil
}

// start runs the process. Like the container's, it does not stop half-way when
// the client goes away.
func (e *execProcess) start(ctx context.Context) (pid int, err error) {
	in, err := e.begin()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), execTimeout,
		fmt.Errorf("%w within %s, its hypervisor may be stopped", errBootTimeout, execTimeout))
	defer cancel()
	defer context.AfterFunc(e.c.execing, cancel)()
	streams, err := stdio.Open(ctx, e.c.names.Namespace, e.id, e.io)
	if err != nil {
		return 0, e.startFailed(fmt.Errorf("streams: %w", err))
	}
	if err := e.connect(streams); err != nil {
		_ = streams.Close()
		return 0, e.startFailed(fmt.Errorf("streams: %w", err))
	}
	proc, err := in.Exec(ctx, e.id, e.spec, streams.Stdio())
	if err != nil {
		_ = streams.Close()
		return 0, e.startFailed(err)
	}
	e.mu.Lock()
	_ = e.allow(opRan) // only start and exit leave the state starting, and both are ours
	e.process = proc
	win, signals := e.window, e.pending
	e.c.events.Send(&events.TaskExecStarted{ContainerID: e.c.names.ID, ExecID: e.id, Pid: uint32(e.c.standIn.Pid())})
	e.mu.Unlock()
	go e.watch(proc)

	e.deliver(ctx, proc, win, signals)
	return e.c.standIn.Pid(), nil
}

// deliver sends what was kept for the process.
func (e *execProcess) deliver(ctx context.Context, proc unikernel.Process, win *window, signals []signal) {
	if win == nil && len(signals) == 0 {
		return
	}
	_ = e.c.tell(ctx, "what was kept for exec "+e.id, func(ctx context.Context) error {
		if win != nil {
			_ = proc.Resize(ctx, win.width, win.height)
		}
		for _, s := range signals {
			_ = proc.Signal(ctx, s.number, s.all)
		}
		return nil
	})
}

// connect opens the input. From here on its end may be announced, even before
// the guest has the process.
func (e *execProcess) connect(streams *stdio.Streams) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams = streams
	if e.stdinEnded {
		streams.CloseStdin()
	}
	return streams.OpenStdin()
}

// startFailed ends the process and returns what the client is told.
func (e *execProcess) startFailed(err error) error {
	status := uint32(statusUnknown)
	known := true
	switch {
	case errors.Is(err, unikernel.ErrNotFound):
		status = statusNotFound
	case errors.Is(err, unikernel.ErrInvalid):
		status = statusNotExecutable
	default:
		known = false
	}
	e.finish(unikernel.Exit{Status: status, At: time.Now()}, false)
	if known {
		// As at the container's own start, without the error's class.
		return fmt.Errorf("OCI runtime exec failed: exec failed: unable to start container process: %s", err)
	}
	return fmt.Errorf("OCI runtime exec failed: %w", err)
}

// watch records the end of the process and closes its streams.
func (e *execProcess) watch(proc unikernel.Process) {
	select {
	case <-proc.Exited():
	case <-e.c.execing.Done():
	}
	exit, err := proc.Exit()
	if err != nil { // the guest or the container is gone, and the process with it
		exit = unikernel.Exit{Status: statusKilled, At: time.Now()}
	}
	e.finish(exit, true)

	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-proc.Drained():
	case <-e.c.drain:
	case <-timer.C:
	}
	e.closeStreams()
}

func (e *execProcess) closeStreams() {
	e.mu.Lock()
	streams := e.streams
	e.mu.Unlock()
	if streams == nil {
		return
	}
	if err := streams.Close(); err != nil {
		e.c.log().WithField(fieldExec, e.id).WithError(err).Warn("closing the process's streams")
	}
}

// finish records the exit, and announces it if the process had been announced.
func (e *execProcess) finish(exit unikernel.Exit, announce bool) {
	e.mu.Lock()
	_ = e.allow(opExit)
	e.exit = exit
	if announce {
		e.c.events.Send(&events.TaskExit{
			ContainerID: e.c.names.ID, ID: e.id, Pid: uint32(e.c.standIn.Pid()),
			ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
		})
	}
	e.mu.Unlock()
	close(e.exited)
}

// collectExecs is called when the first process is gone: the guest has ended
// all others with it. It lets no other start and waits until each exit is
// published, because the container's must be the last.
func (c *Container) collectExecs() {
	c.mu.Lock()
	c.ending = true
	var alive []*execProcess
	for _, e := range c.execs {
		e.mu.Lock()
		if e.state == execStarting || e.state == execRunning {
			alive = append(alive, e)
		}
		e.mu.Unlock()
	}
	c.mu.Unlock()

	timer := time.NewTimer(collectTimeout)
	defer timer.Stop()
	late := false
	for _, e := range alive {
		select {
		case <-e.exited:
			continue
		case <-timer.C:
		}
		if !late {
			late = true
			c.log().Warn("the guest did not report the end of every exec process")
			c.endExecs()
			timer.Reset(0) // and no more waiting for each
		}
		<-e.exited
	}
}

// kill sends a signal to the process.
func (e *execProcess) kill(ctx context.Context, sig syscall.Signal) error {
	e.mu.Lock()
	if err := e.allow(opKill); err != nil {
		e.mu.Unlock()
		return err
	}
	proc := e.process
	if proc == nil && len(e.pending) < maxPending {
		e.pending = append(e.pending, signal{sig, false})
	}
	e.mu.Unlock()
	if proc == nil {
		return nil
	}
	return e.c.tell(ctx, fmt.Sprintf("signal %d for exec %s", sig, e.id), func(ctx context.Context) error {
		return finished(proc.Signal(ctx, sig, false))
	})
}

func (e *execProcess) resize(ctx context.Context, width, height uint16) error {
	e.mu.Lock()
	if err := e.allow(opResize); err != nil {
		e.mu.Unlock()
		return err
	}
	proc := e.process
	if proc == nil {
		e.window = &window{width, height}
	}
	e.mu.Unlock()
	if proc == nil {
		return nil
	}
	return e.c.tell(ctx, "the size of a terminal", func(ctx context.Context) error { return proc.Resize(ctx, width, height) })
}

func (e *execProcess) closeStdin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stdinEnded = true
	if e.streams != nil {
		e.streams.CloseStdin()
	}
}

func (e *execProcess) wait(ctx context.Context) (unikernel.Exit, error) {
	select {
	case <-e.exited:
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.exit, nil
	case <-ctx.Done():
		return unikernel.Exit{}, ctx.Err()
	}
}

// status returns the state of the process in the words of a container.
func (e *execProcess) status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{ID: e.id, Bundle: e.c.bundle, IO: e.io, Exit: e.exit}
	switch e.state {
	case execCreated, execStarting:
		s.State = Created
	case execRunning:
		s.State, s.Pid = Running, e.c.standIn.Pid()
	case execStopped:
		s.State, s.Pid = Stopped, e.c.standIn.Pid()
	}
	return s
}

// deleteExec forgets a process that does not run.
func (c *Container) deleteExec(ctx context.Context, id string) (Status, error) {
	e, err := c.execProcess(id)
	if err != nil {
		return Status{}, err
	}
	e.mu.Lock()
	err = e.allow(opDelete)
	proc := e.process
	e.mu.Unlock()
	if err != nil {
		return Status{}, err
	}
	if proc != nil {
		drainFor(ctx, proc, deleteDrainTimeout)
	}
	e.closeStreams()
	c.mu.Lock()
	delete(c.execs, id)
	c.mu.Unlock()
	return e.status(), nil
}
