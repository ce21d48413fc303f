package sandbox

import (
	"time"

	"containerd-shim-uni/unikernel"
)

// A hollow sandbox has no machine: it is a network namespace, a cgroup and a process
// that stands for it, of a pod whose containers bring machines of their own, one at a
// time. It is up once it has booted, which takes no time, and ends with its owner.

// Hollow takes the place of Create.
func (s *Sandbox) Hollow() error {
	s.hollow = true
	if err := s.group.Add(s.standIn.Pid()); err != nil {
		return err
	}
	return s.step(opCreate)
}

// bootHollow is Boot of a sandbox that is hollow: there is no session.
func (s *Sandbox) bootHollow() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.up)
	return s.allow(opBooted)
}

// endHollow is Destroy.
func (s *Sandbox) endHollow() {
	s.noteEnd(unikernel.End{Reason: unikernel.EndDestroyed, At: time.Now()})
}
