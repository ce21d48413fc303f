package task

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/status"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// show lets who looks at the host see the sandbox of a container that owns one, until
// it is deleted.
func (s *Service) show(c *Container) {
	server, err := status.Serve(c.names.Sandbox.Status(), shown{s, c})
	if err != nil {
		c.log().WithError(err).Warn("uni ps will not show the container")
		return
	}
	c.hide = func() { _ = server.Close() }
}

// shown is a sandbox as it is seen, by its owner.
type shown struct {
	service *Service
	owner   *Container
}

// Tail implements status.Source.
func (v shown) Tail(lines int) []string { return v.owner.sandbox.Tail(lines) }

// Status implements status.Source.
func (v shown) Status() status.Machine {
	m := v.owner.sandbox.Describe()
	m.Created, m.Kind = v.owner.since, status.KindContainer
	_, pod := v.owner.place.(*keeper)
	if pod {
		m.Kind = status.KindPod
	}
	list := v.service.in(v.owner.sandbox)
	if pod {
		list = slices.DeleteFunc(list, func(c *Container) bool { return c == v.owner })
	}
	m.Containers = make([]status.Container, len(list))
	var all sync.WaitGroup
	for i, c := range list {
		all.Go(func() { m.Containers[i] = c.describe() })
	}
	all.Wait()
	return m
}

// in returns the containers of a sandbox, the oldest first.
func (s *Service) in(sb *sandbox.Sandbox) []*Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.DeleteFunc(slices.Collect(maps.Values(s.containers)), func(c *Container) bool { return c.sandbox != sb })
	slices.SortFunc(list, func(a, b *Container) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.names.ID, b.names.ID))
	})
	return list
}

// describe says what there is to say of the container, and asks its guest.
func (c *Container) describe() status.Container {
	used := c.count(context.Background()) // for statsTimeout at most
	_, execs := c.Pids()
	c.mu.Lock()
	defer c.mu.Unlock()
	d := status.Container{
		ID: c.names.ID, State: c.state.String(), Bundle: c.bundle, Pid: c.standIn.Pid(),
		Created: c.since, Started: c.started, Execs: len(execs), Stages: maps.Clone(c.stages),
	}
	d.Written, _ = occupied(c.names.writable())
	if c.state == Stopped || c.state == Deleting {
		d.Exit = &status.Exit{Status: c.exit.Status, At: c.exit.At}
	} else if used != nil {
		d.Used = inUse(*used)
	}
	return d
}

// inUse sums up what a guest counted.
func inUse(s unikernel.Stats) *status.Used {
	u := &status.Used{CPU: s.CPU.Usage, Memory: s.Memory.Usage, Pids: s.Pids}
	// As the kubelet reckons the working set (cadvisor's container.MemoryStats).
	u.Memory -= min(u.Memory, s.Memory.Stat["inactive_file"])
	for _, n := range s.Network {
		u.Received += n.RxBytes
		u.Sent += n.TxBytes
	}
	return u
}

// occupied is what a file occupies on its disk, in bytes, if it is there.
func occupied(path string) (bytes int64, ok bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0, false
	}
	return st.Blocks * 512, true // st_blocks, see stat(2)
}
