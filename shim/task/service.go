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

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Service is the containers of one shim. An exec id names a further process of
// a container; an empty one its first.
type Service struct {
	namespace string
	host      Host
	events    Events
	shutdown  chan struct{}
	// release lets go of what outlives containers, once; before Shutdown
	// returns, so that whoever called it finds nothing left.
	release func()

	sweeping sync.Once

	mu         sync.Mutex
	containers map[string]*Container
	creations  map[string]*creating // of ids that have no container yet
	ending     bool
	idle       *time.Timer // runs while there is neither of them
}

// NewService returns a service without containers. It calls release, if there
// is one, when it is shut down, which it is by itself after it had no container
// for IdleTimeout: whoever started it may have gone before it asked for one, or
// after it gave up on one.
func NewService(namespace string, host Host, events Events, release func()) *Service {
	s := &Service{
		namespace: namespace, host: host, events: events, release: release,
		shutdown: make(chan struct{}), containers: map[string]*Container{}, creations: map[string]*creating{},
	}
	s.idle = time.AfterFunc(IdleTimeout, s.expire)
	return s
}

func (s *Service) container(id string) (*Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// Create makes a container and returns the number of the process that stands for
// it.
func (s *Service) Create(ctx context.Context, r CreateRequest) (pid int, err error) {
	ctx, err = s.begin(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	defer s.over(r.ID)
	c, err := create(ctx, s.host, s.events, s.pod, s.namespace, r)
	if err == nil && !s.keep(ctx, r.ID, c) {
		if _, err = c.Delete(context.WithoutCancel(ctx)); err == nil {
			err = context.Cause(ctx)
		}
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if err != nil {
		return 0, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	if c.names.Owns() {
		s.show(c)
	}
	if c.disks != nil {
		s.sweeping.Do(func() { go sweep(c.disks.maker) })
	}
	return c.standIn.Pid(), nil
}

// pod returns the pod that a container keeps.
func (s *Service) pod(id string) (*pod, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, fmt.Errorf("the pod's own container is not in this shim, which may have been started anew: %w", err)
	}
	k, ok := c.place.(*keeper)
	if !ok {
		return nil, fmt.Errorf("container %s is no pod's own: %w", id, errdefs.ErrFailedPrecondition)
	}
	return k.pod, nil
}

// Start starts a process.
func (s *Service) Start(ctx context.Context, id, execID string) (pid int, err error) {
	c, err := s.container(id)
	if err != nil {
		return 0, err
	}
	if execID == "" {
		return c.Start(ctx)
	}
	e, err := c.execProcess(execID)
	if err != nil {
		return 0, err
	}
	return e.start(ctx)
}

// Delete frees a container, or forgets an exec process. A container that is
// being created is given up: containerd asks for that when its client has gone,
// and the shim's end next. It is not found then, when nothing of it is left.
func (s *Service) Delete(ctx context.Context, id, execID string) (Status, error) {
	if execID == "" {
		if err := s.giveUp(ctx, id); err != nil {
			return Status{}, err
		}
	}
	c, err := s.container(id)
	if err != nil {
		return Status{}, err
	}
	if execID != "" {
		return c.deleteExec(ctx, execID)
	}
	st, err := c.Delete(ctx)
	if err == nil {
		s.forget(id, c)
	}
	return st, err
}

// Exec adds a process to a container.
func (s *Service) Exec(id, execID string, spec *specs.Process, io stdio.Config) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	return c.Exec(execID, spec, io)
}

// Kill sends a signal to a process, with all to every process of a container.
func (s *Service) Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if execID == "" {
		return c.Kill(ctx, sig, all)
	}
	e, err := c.execProcess(execID)
	if err != nil {
		return err
	}
	return e.kill(ctx, sig)
}

// Status returns the state of a process.
func (s *Service) Status(id, execID string) (Status, error) {
	c, err := s.container(id)
	if err != nil {
		return Status{}, err
	}
	if execID == "" {
		return c.Status(), nil
	}
	e, err := c.execProcess(execID)
	if err != nil {
		return Status{}, err
	}
	st := e.status()
	// Processes of a paused machine are paused with it.
	if of := c.Status().State; st.State == Running && (of == Pausing || of == Paused || of == Resuming) {
		st.State = of
	}
	return st, nil
}

// Wait returns when a process has exited.
func (s *Service) Wait(ctx context.Context, id, execID string) (unikernel.Exit, error) {
	c, err := s.container(id)
	if err != nil {
		return unikernel.Exit{}, err
	}
	if execID == "" {
		return c.Wait(ctx)
	}
	e, err := c.execProcess(execID)
	if err != nil {
		return unikernel.Exit{}, err
	}
	return e.wait(ctx)
}

// CloseStdin ends the input of a process.
func (s *Service) CloseStdin(id, execID string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if execID == "" {
		c.CloseStdin()
		return nil
	}
	e, err := c.execProcess(execID)
	if err != nil {
		return err
	}
	e.closeStdin()
	return nil
}

// ResizePty sets the size of a process's terminal, in characters.
func (s *Service) ResizePty(ctx context.Context, id, execID string, width, height uint16) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if execID == "" {
		return c.ResizePty(ctx, width, height)
	}
	e, err := c.execProcess(execID)
	if err != nil {
		return err
	}
	return e.resize(ctx, width, height)
}

// Container returns one container, for what concerns it as a whole.
func (s *Service) Container(id string) (*Container, error) { return s.container(id) }
