package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"containerd-shim-uni/shim/console"
	"containerd-shim-uni/unikernel"
)

// Session is the guest's, once there is one.
func (s *Sandbox) Session() unikernel.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

// Boot lets the machine run and returns the guest's session as soon as the guest
// is ready, or nil where the sandbox is hollow. It is called once; Session gives what it
// returned.
func (s *Sandbox) Boot(ctx context.Context) (unikernel.Session, error) {
	if err := s.step(opBoot); err != nil {
		return nil, err
	}
	if s.hollow {
		return nil, s.bootHollow()
	}
	if err := s.lateNetwork(ctx); err != nil {
		return nil, err
	}
	defer s.took("boot", time.Now())
	boot := s.bootOnce
	if s.fork.forked {
		boot = s.bootForked
	}
	session, err := boot(ctx)
	for tries := 1; errors.Is(err, errIdle) && tries < mostBoots; tries++ {
		s.fork.refused = true
		s.log().WithError(err).Warn("another machine takes the place of one that does not boot")
		if err := s.replace(ctx, s.Network()); err != nil {
			return nil, fmt.Errorf("create the machine again: %w", err)
		}
		session, err = s.bootOnce(ctx)
	}
	if err != nil {
		return nil, err
	}
	s.order()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = session
	close(s.up)
	if s.state == Ended { // a guest that starts by itself may be done already
		return session, nil
	}
	return session, s.allow(opBooted)
}

// bootOnce boots the machine there is.
func (s *Sandbox) bootOnce(ctx context.Context) (unikernel.Session, error) {
	if err := s.resume(ctx); err != nil {
		return nil, fmt.Errorf("resume machine: %w", err)
	}
	return s.connect(ctx)
}

// resume lets the machine run. A guest that starts by itself may be at its end
// before the call is: then its program ran, and how it ended is known.
func (s *Sandbox) resume(ctx context.Context) error {
	err := s.machines.Resume(ctx, s.names.Domain())
	if err == nil || !s.hardware.Alone() {
		return err
	}
	if s.endWithin(lastWords) && s.RanAlone() {
		return nil
	}
	return err
}

// RanAlone says that the machine has ended because a guest that starts its
// program by itself made it: the program ran, whatever was noticed of it.
func (s *Sandbox) RanAlone() bool {
	select {
	case <-s.ended:
	default:
		return false
	}
	switch s.End().Reason {
	case unikernel.EndShutdown, unikernel.EndExited, unikernel.EndPanicked, unikernel.EndHalted:
		return s.hardware.Alone()
	}
	return false
}

// lateNetwork replaces the machine, which has not run yet, if its namespace
// got interfaces since it was created: "ctr run --cni" fills it only then.
func (s *Sandbox) lateNetwork(ctx context.Context) error {
	if !s.ownNetns || len(s.Network().Interfaces) > 0 {
		return nil
	}
	found, err := s.networks.Look(s.netns)
	if err != nil || len(found.Interfaces) == 0 {
		return err
	}
	if err := s.replace(ctx, found); err != nil {
		return fmt.Errorf("create the machine again, now with its network: %w", err)
	}
	return nil
}

// replace makes another machine in place of one whose end is not the sandbox's.
func (s *Sandbox) replace(ctx context.Context, found unikernel.Network) error {
	s.unwatch()
	if s.State() != Booting {
		return fmt.Errorf("%w: the machine has ended", unikernel.ErrUnavailable)
	}
	defer s.watch()
	if err := s.machines.Destroy(ctx, s.names.Domain()); err != nil {
		return err
	}
	if err := s.make(ctx, found); err != nil {
		return err
	}
	s.mu.Lock()
	s.network = found
	s.mu.Unlock()
	return context.Cause(ctx) // killed meanwhile: the new machine must not run
}

// booted is the machine as its guest sees it.
type booted struct{ s *Sandbox }

// Control implements unikernel.Booted.
func (b booted) Control(ctx context.Context) (io.ReadWriteCloser, error) {
	return console.Dial(ctx, b.s.names.Control())
}

// Console implements unikernel.Watched.
func (b booted) Console() io.ReadCloser {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.s.output
}

// PowerButton implements unikernel.Watched.
func (b booted) PowerButton(ctx context.Context) error {
	return b.s.machines.PowerButton(ctx, b.s.names.Domain())
}

// Ended implements unikernel.Watched.
func (b booted) Ended(ctx context.Context) (unikernel.End, error) {
	select {
	case <-b.s.ended:
		return b.s.End(), nil
	case <-ctx.Done():
		return unikernel.End{}, ctx.Err()
	}
}

// Record implements unikernel.Watched.
func (b booted) Record() ([]byte, error) {
	if b.s.hardware.Record == nil {
		return nil, nil
	}
	return b.s.hardware.Record()
}
