package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// creating is a creation that is under way.
type creating struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// Done is closed when the service was shut down.
func (s *Service) Done() <-chan struct{} { return s.shutdown }

// Shutdown ends the service unless it still has containers.
func (s *Service) Shutdown() {
	s.mu.Lock()
	last := s.empty() && !s.ending
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

// Stop ends and frees all containers, for a shim that was told to end: what runs
// in a machine would end with it anyway, and nobody else may come to clean up.
func (s *Service) Stop(ctx context.Context) {
	s.mu.Lock()
	s.ending = true
	ids := slices.Concat(slices.Collect(maps.Keys(s.containers)), slices.Collect(maps.Keys(s.creations)))
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if err := s.Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
				log.G(ctx).WithError(err).WithField(fieldContainer, s.namespace+"/"+id).Error("container could not be freed; its shim ends")
			}
		})
	}
	all.Wait()
}

// Remove frees a container, and ends it before if it runs.
func (s *Service) Remove(ctx context.Context, id string) error {
	if err := s.giveUp(ctx, id); err != nil {
		return err
	}
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if err := c.Kill(ctx, syscall.SIGKILL, true); err == nil {
		if _, err := c.Wait(ctx); err != nil {
			return err
		}
	}
	_, err = s.Delete(ctx, id, "")
	return err
}

// empty says that there is no container and will be none that was asked for.
// The caller holds mu.
func (s *Service) empty() bool { return len(s.containers) == 0 && len(s.creations) == 0 }

// begin takes an id for a container that is being created.
func (s *Service) begin(ctx context.Context, id string) (context.Context, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return nil, fmt.Errorf("shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if s.containers[id] != nil || s.creations[id] != nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.idle.Stop()
	ctx, cancel := context.WithCancelCause(ctx)
	s.creations[id] = &creating{cancel: cancel, done: make(chan struct{})}
	return ctx, nil
}

// keep makes a created container one of the service's, unless it was given up
// meanwhile.
func (s *Service) keep(ctx context.Context, id string, c *Container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	s.containers[id] = c
	return true
}

// over ends a creation, however it went.
func (s *Service) over(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cr := s.creations[id]
	delete(s.creations, id)
	cr.cancel(nil)
	close(cr.done)
	s.rest()
}

// rest starts the time that is allowed without containers, if there are none. The
// caller holds mu.
func (s *Service) rest() {
	if s.empty() {
		s.idle.Reset(IdleTimeout)
	}
}

// expire ends a service that had no container for IdleTimeout. A client that asks
// after that is told that the connection was closed; the log says why.
func (s *Service) expire() {
	log.L.Infof("the shim ends: nobody asked it for a container within %v", IdleTimeout)
	s.Shutdown()
}

// errGivenUp says that a container was deleted before it was there.
var errGivenUp = errors.New("it was deleted while it was being created")

// giveUp ends a creation that is under way.
func (s *Service) giveUp(ctx context.Context, id string) error {
	s.mu.Lock()
	cr := s.creations[id]
	s.mu.Unlock()
	if cr == nil {
		return nil
	}
	cr.cancel(errGivenUp)
	select {
	case <-cr.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("container %s is being created, and then given up: %w", id, ctx.Err())
	}
}

// forget drops a container that is gone: this one, and not another that has its
// id by now.
func (s *Service) forget(id string, c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] == c {
		delete(s.containers, id)
		s.rest()
	}
}
