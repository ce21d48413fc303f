package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/shim/volume"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
)

// Names of fields in the log.
const (
	fieldContainer = "container"
	fieldExec      = "exec"
	fieldReason    = "reason"
	fieldConsole   = "console"
	fieldStatus    = "status"
	fieldStage     = "stage"
)

// Container is one container of a sandbox. See the package's comment for its
// life.
type Container struct {
	// Set at creation and never changed.
	names  Names
	bundle string
	cfg    config.Config
	app    unikernel.App
	plan   unikernel.Plan
	// unclaim lets others remove the container's directory.
	unclaim func()
	// since is when it was asked for.
	since time.Time
	// hide ends that its machine is seen, see Service.show.
	hide func()
	// rootFormat is the format of a disk that brings the root file system.
	rootFormat string
	io         stdio.Config
	place      place
	sandbox    *sandbox.Sandbox
	standIn    *sandbox.StandIn
	disks      *diskSet // nil without a root
	// volumes are its machine's, mounted what it has of them; nil if nothing.
	volumes *volume.Set
	mounted *volume.Group
	guest   unikernel.Guest
	events  Events
	streams *stdio.Streams
	asker   asker

	// booted gets the outcome of the one attempt to start, and is closed.
	booted chan boot
	// exited is closed once exit is set and the events are queued.
	exited chan struct{}
	// drain is closed to cut short waiting for readers of the output.
	drain chan struct{}
	// released is closed when the container has left its sandbox and the streams
	// are closed.
	released chan struct{}
	// killing is whoever makes the container end.
	killing sync.WaitGroup
	// execing ends further processes that do not end with the first.
	execing  context.Context
	endExecs context.CancelFunc

	mu         sync.Mutex
	state      State
	killed     bool // SIGKILL was asked for
	forcing    bool // somebody is making it end
	ending     bool // the first process has exited; execs are being collected
	cancelBoot context.CancelCauseFunc
	in         inGuest // once there is a guest
	process    unikernel.Process
	pending    []signal // for a process that cannot take them yet
	window     *window  // the terminal's size, for a process that is not there yet
	exit       unikernel.Exit
	startErr   error // why it could not be started
	lastOOM    time.Time
	started    time.Time        // when the process ran
	stages     map[string]int64 // ms, see took
	counted    *unikernel.Stats // what the guest counted when it was last asked
	limits     *inForce         // since they were changed
	execs      map[string]*execProcess
	deletion   *deletion
}

func newContainer(sent Events, r CreateRequest) *Container {
	c := &Container{
		bundle: r.Bundle, io: r.IO, events: sent, unclaim: func() {}, hide: func() {},
		since: time.Now(), stages: map[string]int64{},
		booted: make(chan boot, 1), exited: make(chan struct{}),
		drain: make(chan struct{}), released: make(chan struct{}), execs: map[string]*execProcess{}, asker: newAsker(),
	}
	c.execing, c.endExecs = context.WithCancel(context.Background())
	return c
}

// boot is the outcome of starting.
type boot struct {
	process unikernel.Process
	err     error
}

type signal struct {
	number syscall.Signal
	all    bool
}

type window struct{ width, height uint16 }

// Status is a snapshot of a container or a further process.
type Status struct {
	// ID is the container's, or that of the exec process.
	ID     string
	Bundle string
	Pid    int
	State  State
	IO     stdio.Config
	Exit   unikernel.Exit
}

func (c *Container) log() *log.Entry {
	return log.L.WithField(fieldContainer, c.names.Namespace+"/"+c.names.ID)
}

// Status returns the container's state.
func (c *Container) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{ID: c.names.ID, Bundle: c.bundle, Pid: c.standIn.Pid(), State: c.state, IO: c.io, Exit: c.exit}
}

// allow moves the container to the state that follows o, or refuses it. The
// caller holds mu.
func (c *Container) allow(o op) error {
	to, err := c.state.next(o)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.names.ID, err)
	}
	c.state = to
	return nil
}

// step is allow for callers that do not hold mu.
func (c *Container) step(o op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.allow(o)
}

// announce is step with an event that goes with it.
func (c *Container) announce(o op, e proto.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.allow(o); err != nil {
		return err
	}
	c.events.Send(e)
	return nil
}

// took notes how long a stage of the container's life took.
func (c *Container) took(stage string, since time.Time) {
	ms := time.Since(since).Milliseconds()
	c.log().WithField(fieldStage, stage).WithField("ms", ms).Debug("stage done")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stages[stage] = ms
}

// Wait returns when the container has exited.
func (c *Container) Wait(ctx context.Context) (unikernel.Exit, error) {
	select {
	case <-c.exited:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.exit, nil
	case <-ctx.Done():
		return unikernel.Exit{}, ctx.Err()
	}
}

// Pause stops all that the container runs: the CPUs of its machine, or its processes in a
// pod's. Like Start it goes on to an end of its own: a
// client that goes away, or a hypervisor that does not answer in time, leaves the
// container pausing until it is known whether it is paused.
func (c *Container) Pause(ctx context.Context) error {
	freezer, err := c.place.freezer()
	if err != nil {
		return fmt.Errorf("pause container %s: %w", c.names.ID, err)
	}
	c.count(ctx) // what it will be said to use while it cannot be asked
	if err := c.step(opPause); err != nil {
		return err
	}
	return c.settle(ctx, "pause", func() error {
		if err := freezer.Pause(); err != nil {
			_ = c.step(opPauseFailed)                    // refused only if it exited meanwhile
			c.deliverPending(context.WithoutCancel(ctx)) // what came in meanwhile
			return err
		}
		return c.announce(opPaused, &events.TaskPaused{ContainerID: c.names.ID})
	})
}

// Resume lets it go on, and delivers the signals that came in while it did not. It ends
// as Pause does.
func (c *Container) Resume(ctx context.Context) error {
	freezer, err := c.place.freezer()
	if err != nil {
		return fmt.Errorf("resume container %s: %w", c.names.ID, err)
	}
	if err := c.step(opResume); err != nil {
		return err
	}
	return c.settle(ctx, "resume", func() error {
		if err := freezer.Resume(); err != nil {
			_ = c.step(opResumeFailed)
			return err
		}
		if err := c.announce(opResumed, &events.TaskResumed{ContainerID: c.names.ID}); err != nil {
			return err
		}
		c.deliverPending(context.WithoutCancel(ctx))
		return nil
	})
}

// settle does what moves the container to another state, and waits a bounded
// time for it.
func (c *Container) settle(ctx context.Context, what string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil && c.wasKilled() {
			err = fmt.Errorf("%w meanwhile: %w", errKilled, errdefs.ErrFailedPrecondition)
		}
		if err != nil {
			return fmt.Errorf("%s container %s: %w", what, c.names.ID, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s container %s: it is under way: %w", what, c.names.ID, ctx.Err())
	case <-timer.C:
		return fmt.Errorf("%s container %s: %w: hypervisor or guest did not answer within %s, and it is under way; SIGKILL ends the container", what, c.names.ID,
			unikernel.ErrUnavailable, settleTimeout)
	}
}

// wasKilled says that SIGKILL was asked for.
func (c *Container) wasKilled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killed
}

// deliverPending sends what was kept for the process.
func (c *Container) deliverPending(ctx context.Context) {
	c.mu.Lock()
	if c.state != Running { // else it stays kept
		c.mu.Unlock()
		return
	}
	proc, signals, win := c.process, c.pending, c.window
	c.pending, c.window = nil, nil
	c.mu.Unlock()
	if proc == nil || win == nil && len(signals) == 0 {
		return
	}
	err := c.tell(ctx, "what was kept for it", func(ctx context.Context) error {
		var errs []error
		if win != nil {
			errs = append(errs, proc.Resize(ctx, win.width, win.height))
		}
		for _, s := range signals {
			errs = append(errs, proc.Signal(ctx, s.number, s.all))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		c.log().WithError(err).Warn("what was kept for the process could not be delivered")
	}
}

// ResizePty sets the terminal's size, now or as soon as there is a process.
func (c *Container) ResizePty(ctx context.Context, width, height uint16) error {
	c.mu.Lock()
	if err := c.allow(opResize); err != nil {
		c.mu.Unlock()
		return err
	}
	if c.state != Running {
		c.window = &window{width, height}
		c.mu.Unlock()
		return nil
	}
	proc := c.process
	c.mu.Unlock()
	return c.tell(ctx, "the size of the terminal", func(ctx context.Context) error { return proc.Resize(ctx, width, height) })
}

// CloseStdin ends the first process's input after what was written so far.
func (c *Container) CloseStdin() { c.streams.CloseStdin() }

// Pids returns the container's process on the host, and beside it each exec process that
// runs in the machine, under the same number: the host knows no other.
func (c *Container) Pids() (pid int, execs []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.execs {
		if e.running() {
			execs = append(execs, id)
		}
	}
	return c.standIn.Pid(), execs
}

func (c *Container) bootTimeout() time.Duration { return c.cfg.Machine.BootTimeout }
