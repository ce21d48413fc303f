package sandbox

import (
	"context"
)

// Pause stops the machine's CPUs.
func (s *Sandbox) Pause(ctx context.Context) error {
	return s.switchCPUs(opPause, opPaused, opPauseFailed, func() error { return s.machines.Pause(ctx, s.names.Domain()) })
}

// Resume lets the machine's CPUs run again.
func (s *Sandbox) Resume(ctx context.Context) error {
	return s.switchCPUs(opResume, opResumed, opResumeFailed, func() error { return s.machines.Resume(ctx, s.names.Domain()) })
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
