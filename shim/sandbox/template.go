package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"containerd-shim-uni/unikernel"
)

// A machine need not boot where there is a template: the saved state of one of the same
// shape that has booted and waits. Whatever goes wrong with that, the machine boots.

// forking is what the sandbox knows of templates. It is used by one caller after the
// other, as the machine is made and booted.
type forking struct {
	templates Templates // nil for none
	// machine is the one there is, as it boots; shape is its, empty for one that cannot go on from a template; forked
	// says that it does, refused that no other machine of the sandbox shall.
	machine         unikernel.Machine
	shape           string
	forked, refused bool
}

// template returns a state from which the machine can go on, empty without one.
func (s *Sandbox) template(m unikernel.Machine) (file string) {
	f := &s.fork
	f.machine, f.shape, f.forked = m, "", false
	if f.templates == nil || !s.hardware.Parks || m.Share != nil || m.OwnKernel {
		return ""
	}
	var err error
	if f.shape, err = s.machines.Shape(m); err != nil {
		s.log().WithError(err).Warn("the machine boots: what template it could go on from is not known")
		return ""
	}
	if f.refused {
		return ""
	}
	file, err = f.templates.Find(f.shape)
	if err == nil {
		return file
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.distrust(err)
	}
	return ""
}

// createMachine makes the machine, with what was saved of another if that can be.
func (s *Sandbox) createMachine(ctx context.Context, m unikernel.Machine) (unikernel.Pids, error) {
	file := s.template(m)
	if file == "" {
		return s.machines.Create(ctx, m)
	}
	pids, err := s.createFork(ctx, m, file)
	if err == nil {
		s.fork.forked = true
		return pids, nil
	}
	if ctx.Err() != nil {
		return unikernel.Pids{}, err
	}
	s.fork.refused = true
	pids, coldErr := s.machines.Create(ctx, m)
	if coldErr == nil && !errors.Is(err, fs.ErrNotExist) { // else it was not the template's fault
		s.distrust(err)
	}
	return pids, coldErr
}

// createFork makes a machine that goes on from a template, which is read meanwhile:
// QEMU does not see that what it loads has changed.
func (s *Sandbox) createFork(ctx context.Context, m unikernel.Machine, file string) (unikernel.Pids, error) {
	verified := make(chan error, 1)
	go func() { verified <- s.fork.templates.Verify(s.fork.shape) }()
	m.Saved = file
	pids, err := s.machines.Create(ctx, m)
	damage := <-verified
	if err == nil && damage != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		err = s.machines.Destroy(ctx, m.Name)
	}
	return pids, errors.Join(damage, err)
}

// distrust takes the template away from those who come later.
func (s *Sandbox) distrust(why error) {
	s.fork.refused = true
	s.log().WithError(why).Warn("the machine boots, since a template of its shape is no good")
	if err := s.fork.templates.Reject(s.fork.shape, why); err != nil {
		s.log().WithError(err).Warn("the template cannot be removed: uni template rm does")
	}
}

// bootForked lets a machine run that goes on from a template. If it ends, or its guest
// does not answer, another one boots in its place: until then its end is not the
// sandbox's.
func (s *Sandbox) bootForked(ctx context.Context) (unikernel.Session, error) {
	s.unwatch()
	session, err := s.bootWithin(ctx, forkTimeout)
	if err == nil || ctx.Err() != nil || s.State() != Booting {
		s.watch()
		return session, err
	}
	s.distrust(fmt.Errorf("its guest does not answer: %w", err))
	if err := s.replace(ctx, s.Network()); err != nil {
		return nil, fmt.Errorf("create the machine again, to boot: %w", err)
	}
	return s.bootOnce(ctx)
}

func (s *Sandbox) bootWithin(ctx context.Context, d time.Duration) (unikernel.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return s.bootOnce(ctx)
}

// order has a template made, for the next machine of this one's shape.
func (s *Sandbox) order() {
	if s.fork.shape == "" || s.fork.forked || s.fork.refused {
		return
	}
	s.fork.templates.Order(s.fork.shape, s.fork.machine)
}
