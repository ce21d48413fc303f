package sandbox

import (
	"context"
	"sync"
)

// StandIn is a process that stands for a container on the host: its number is
// the one that clients get, and what they find through it in /proc is the
// sandbox's network and nothing else. The hypervisor's would be the host.
type StandIn struct {
	process *process
	end     func()
	lost    chan struct{}
}

// newStandIn takes over a process that the call of end ends.
func newStandIn(pid int, end func()) *StandIn {
	i := &StandIn{process: noProcess(), lost: make(chan struct{})}
	i.process.adopt(pid)
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if i.process.wait(ctx) == nil {
			close(i.lost)
		}
	}()
	i.end = sync.OnceFunc(func() {
		cancel()
		end()
		<-watched
		i.process.close()
	})
	return i
}

// Pid is the number of the process, also when it has ended.
func (i *StandIn) Pid() int { return i.process.id() }

// Lost is closed when the process ended although End was not called: what it
// stands for ends then, as containers of other runtimes do.
func (i *StandIn) Lost() <-chan struct{} { return i.lost }

// End ends the process, once.
func (i *StandIn) End() { i.end() }

// StandIn stands for the sandbox, once Prepare has begun to fill its network. It
// ends with the machine.
func (s *Sandbox) StandIn() *StandIn { return s.standIn }

// AddStandIn starts one more, for a container of that name in the sandbox that
// exists. Whoever called ends it.
func (s *Sandbox) AddStandIn(name string) (*StandIn, error) {
	i, err := s.occupy(name)
	if err != nil {
		return nil, err
	}
	if err := s.group.Add(i.Pid()); err != nil {
		i.End()
		return nil, err
	}
	return i, nil
}

// occupy starts a stand-in in the sandbox's network namespace.
func (s *Sandbox) occupy(id string) (*StandIn, error) {
	pid, end, err := s.networks.Occupy(s.netns, s.names.Namespace+"/"+id)
	if err != nil {
		return nil, err
	}
	return newStandIn(pid, end), nil
}
