package sandbox

import (
	"context"

	"containerd-shim-uni/unikernel"
)

// Pause stops the machine's CPUs.
func (s *Sandbox) Pause(ctx context.Context) error {
	return s.switchCPUs(opPause, opPaused, opPauseFailed, func() error { return s.machines.Pause(ctx, s.names.Domain()) })
}

// Resume lets the machine's CPUs run again.
func (s *Sandbox) Resume(ctx context.Context) error {
	err := s.switchCPUs(opResume, opResumed, opResumeFailed, func() error { return s.machines.Resume(ctx, s.names.Domain()) })
	if err == nil {
		s.setClock(ctx)
	}
	return err
}

// setClock lets the guest make up for the time in which its machine did not run.
func (s *Sandbox) setClock(ctx context.Context) {
	keeper, ok := s.Session().(unikernel.Timekeeper)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clockTimeout)
	defer cancel()
	if err := keeper.SetClock(ctx); err != nil {
		s.log().WithError(err).Warn("the guest's clock could not be set; it is tried again within a minute")
	}
}

func (s *Sandbox) switchCPUs(begin, done, failed op, do func() error) error {
	if err := s.step(begin); err != nil {
		return err
	}
	if err := do(); err != nil {
		_ = s.step(failed) // refused only if it ended meanwhile
		return err
	}
	return s.step(done)
}
