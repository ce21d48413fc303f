package task

import (
	"context"
	"fmt"
	"sync"
	"syscall"

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
	containers map[string]*Container // nil while being created
	ending     bool
}

// NewService returns a service without containers. It calls release, if there
// is one, when it is shut down.
func NewService(namespace string, host Host, events Events, release func()) *Service {
	return &Service{
		namespace: namespace, host: host, events: events, release: release,
		shutdown: make(chan struct{}), containers: map[string]*Container{},
	}
}

// Done is closed when Shutdown was asked for and no container was left.
func (s *Service) Done() <-chan struct{} { return s.shutdown }

// Shutdown ends the service unless it still has containers.
func (s *Service) Shutdown() {
	s.mu.Lock()
	last := len(s.containers) == 0 && !s.ending
	s.ending = s.ending || last
	s.mu.Unlock()
	if !last {
		return
	}
	if s.release != nil {
		s.release()
	}
	close(s.shutdown)
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

// reserve takes an id for a container that is being created.
func (s *Service) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if _, taken := s.containers[id]; taken {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.containers[id] = nil
	return nil
}

func (s *Service) put(id string, c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		delete(s.containers, id)
		return
	}
	s.containers[id] = c
}

// Create makes a container and returns the number of its machine's process.
func (s *Service) Create(ctx context.Context, r CreateRequest) (pid int, err error) {
	if err := s.reserve(r.ID); err != nil {
		return 0, err
	}
	c, err := create(ctx, s.host, s.events, s.namespace, r)
	s.put(r.ID, c)
	if err != nil {
		return 0, fmt.Errorf("create container %s: %w", r.ID, err)
	}
	s.sweeping.Do(func() { go sweep(c.disks.maker) })
	return c.sandbox.Pid(), nil
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

// Delete frees a container, or forgets an exec process.
func (s *Service) Delete(ctx context.Context, id, execID string) (Status, error) {
	c, err := s.container(id)
	if err != nil {
		return Status{}, err
	}
	if execID != "" {
		return c.deleteExec(ctx, execID)
	}
	st, err := c.Delete(ctx)
	if err == nil {
		s.put(id, nil)
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
