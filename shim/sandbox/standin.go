package sandbox

import "sync"

// standIn is the process that stands for the sandbox on the host: its number is
// the one that clients get, and what they find through it in /proc is the
// sandbox's network and nothing else. The hypervisor's would be the host.
type standIn struct {
	*process
	end  func()
	once sync.Once
}

// occupy starts it, before hooks are told its number.
func (s *Sandbox) occupy() error {
	pid, end, err := s.networks.Occupy(s.netns, s.title())
	if err != nil {
		return err
	}
	s.standIn = &standIn{process: noProcess(), end: end}
	s.standIn.adopt(pid)
	return nil
}

// watchStandIn tells when somebody else ends it: containers end then, as those
// of other runtimes do.
func (s *Sandbox) watchStandIn() {
	s.watchers.Go(func() {
		if err := s.standIn.wait(s.watchingStandIn); err == nil {
			close(s.lost)
		}
	})
}

// Withdraw is called by a member that has ended before it tells: with the last
// one the process that stands for the sandbox ends.
func (s *Sandbox) Withdraw(id string) {
	if s.last(id) {
		s.endStandIn()
	}
}

// endStandIn ends it; a sandbox without one is fine.
func (s *Sandbox) endStandIn() {
	s.stopWatchingStandIn()
	if o := s.standIn; o != nil {
		o.once.Do(o.end)
	}
}
