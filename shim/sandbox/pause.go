package sandbox

import (
	"context"

	"containerd-shim-uni/unikernel"
)

// Pause stops the machine's CPUs. It returns when they are stopped, or it is
// known that they are not: at the latest when the machine ends.
func (s *Sandbox) Pause() error {
	return s.switchCPUs(opPause, opPaused, opPauseFailed, s.machines.Pause)
}

// Resume lets the machine's CPUs run again. It returns as Pause does.
func (s *Sandbox) Resume() error {
	err := s.switchCPUs(opResume, opResumed, opResumeFailed, s.machines.Resume)
	if err == nil {
		s.setClock()
	}
	return err
}

// setClock lets the guest make up for the time in which its machine did not run.
func (s *Sandbox) setClock() {
	keeper, ok := s.Session().(unikernel.Timekeeper)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(s.watching, clockTimeout)
	defer cancel()
	if err := keeper.SetClock(ctx); err != nil {
		s.log().WithError(err).Warn("the guest's clock could not be set; it is tried again within a minute")
	}
}

func (s *Sandbox) switchCPUs(begin, done, failed op, do func(context.Context, string) error) error {
	if err := s.step(begin); err != nil {
		return err
	}
	if err := do(s.watching, s.names.Domain()); err != nil {
		_ = s.step(failed) // refused only if it ended meanwhile
		return err
	}
	return s.step(done)
}
