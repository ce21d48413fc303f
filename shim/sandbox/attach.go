package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
)

// Attach gives the running machine disks, each at a unit that is free. When it
// fails the machine has none of them, unless the error says so. A sandbox that is
// not up is ErrFailedPrecondition, a serial that a disk has ErrAlreadyExists,
// a machine that has no room for them ErrNotImplemented, one that ends or does not
// answer unikernel.ErrUnavailable.
func (s *Sandbox) Attach(ctx context.Context, disks ...unikernel.Disk) error {
	defer s.took("disks attached", time.Now())
	ctx, cancel := s.untilEnd(ctx, attachTimeout)
	defer cancel()
	unplugged, err := s.plug(ctx)
	if err != nil {
		return err
	}
	defer unplugged()
	units, err := s.allot(disks)
	if err != nil {
		return err
	}
	for i, d := range disks {
		if err = s.machines.Attach(ctx, s.names.Domain(), d, units[i]); err != nil {
			break
		}
	}
	if err == nil {
		return nil
	}
	select {
	case <-s.ended:
		err = fmt.Errorf("%w: the machine has ended: %w", unikernel.ErrUnavailable, err)
	default:
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachTimeout)
	defer cancel()
	return errors.Join(err, s.detach(back, disks))
}

// Detach takes disks from the machine, whose guest does not use them any more, and
// returns when their files are closed: whatever becomes of ctx, in every state of
// the sandbox. A disk that is not there is not an error. All are tried; what fails
// can be tried again, and its unit is not used for another disk before.
func (s *Sandbox) Detach(ctx context.Context, disks ...unikernel.Disk) error {
	defer s.took("disks detached", time.Now())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachTimeout)
	defer cancel()
	unplugged, err := s.plug(ctx)
	if err != nil {
		return err
	}
	defer unplugged()
	return s.detach(ctx, disks)
}

// untilEnd is a context that ends with the machine, too, or after a time.
func (s *Sandbox) untilEnd(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, d)
	go func() {
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// plug waits until no other disks come or go.
func (s *Sandbox) plug(ctx context.Context) (done func(), err error) {
	select {
	case s.plugging <- struct{}{}:
		return func() { <-s.plugging }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("sandbox %s: %w: other disks are being attached or detached: %w", s.names.ID, unikernel.ErrUnavailable, ctx.Err())
	}
}

// allot gives each of the disks the lowest unit that is free.
func (s *Sandbox) allot(disks []unikernel.Disk) ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.allow(opAttach); err != nil {
		return nil, err
	}
	if !s.hardware.LUNs {
		return nil, fmt.Errorf("sandbox %s: %w: the machine was made without a controller for disks that come later", s.names.ID, unikernel.ErrNotImplemented)
	}
	luns := s.luns // a copy: all of them, or none
	var units []int
	for _, d := range disks {
		if d.Serial == "" {
			return nil, fmt.Errorf("sandbox %s: %w: the disk %s has no serial", s.names.ID, unikernel.ErrInvalid, d.Path)
		}
		if slices.Contains(luns[:], d.Serial) || slices.ContainsFunc(s.hardware.Disks, func(cold unikernel.Disk) bool { return cold.Serial == d.Serial }) {
			return nil, fmt.Errorf("sandbox %s: disk %s: %w", s.names.ID, d.Serial, errdefs.ErrAlreadyExists)
		}
		unit := slices.Index(luns[:], "")
		if unit < 0 {
			return nil, fmt.Errorf("sandbox %s: %w: a machine holds %d disks that come while it runs: remove a container of the pod first",
				s.names.ID, unikernel.ErrNotImplemented, len(luns))
		}
		luns[unit] = d.Serial
		units = append(units, unit)
	}
	s.luns = luns
	return units, nil
}

// detach takes away those of the disks that have a unit, whether they are there or
// not. The caller holds plugging.
func (s *Sandbox) detach(ctx context.Context, disks []unikernel.Disk) error {
	var errs []error
	for _, d := range disks {
		unit := s.unit(d.Serial)
		if unit < 0 {
			continue
		}
		if err := s.detachOne(ctx, d, unit); err != nil {
			errs = append(errs, fmt.Errorf("detach disk %s: %w", d.Serial, err))
			continue
		}
		s.mu.Lock()
		s.luns[unit] = ""
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

// unit is where a disk is, or may be; -1 without one.
func (s *Sandbox) unit(serial string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if serial == "" {
		return -1
	}
	return slices.Index(s.luns[:], serial)
}

// detachOne takes away a disk. A machine that has ended may not have closed its
// files yet, and nothing of it is needed any more.
func (s *Sandbox) detachOne(ctx context.Context, d unikernel.Disk, unit int) error {
	err := s.machines.Detach(ctx, s.names.Domain(), d, unit)
	if err != nil && s.endWithin(lastWords) {
		s.Destroy()
		return nil
	}
	return err
}
