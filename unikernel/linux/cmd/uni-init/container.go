package main

import (
	"os"
	"sync"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// container is one container of the machine.
type container struct {
	s              *server
	wire.Container // as the host described it
	sp             *spawner
	group          *cgroup
	disks          map[string]string // the kernel's names of its disks by their serials; guarded by the server's disksMu
	oom            oomWatch

	spaceMu sync.Mutex // guards what follows
	space   *wire.Space
	mounted bool // the layer is there, and space can be limited

	// What follows is guarded by the server's mutex.
	ready    bool   // processes may be started
	main     uint32 // id of its first process; 0 before
	over     bool   // it has no process, and gets none
	removing bool
	pidns    string // its own PID namespace, as readlink tells it, once there is a process
}

// errNoContainer answers a request about a container that is not there.
var errNoContainer = &failure{wire.CodeNotFound, "no such container in the machine"}

// addContainer makes the container known, not yet ready.
func (s *server) addContainer(w wire.Container) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.ready:
		return nil, &failure{wire.CodeInvalid, "the machine is not set up yet"}
	case s.containers[w.ID] != nil:
		return nil, &failure{wire.CodeInvalid, "the container exists already"}
	}
	for _, other := range s.containers {
		for _, serial := range []string{w.Root, w.Upper} {
			if serial != "" && (serial == other.Root || serial == other.Upper) {
				return nil, &failure{wire.CodeInvalid, "the disk " + quote(serial) + " is another container's"}
			}
		}
	}
	c := &container{s: s, Container: w, space: w.Space, disks: map[string]string{}}
	c.oom.send = func(kills uint64) { s.send(wire.KindOOM, 0, wire.OOM{Container: w.ID, Kills: kills}.Encode()) }
	s.containers[w.ID] = c
	return c, nil
}

// container returns the container with that id, nil without one.
func (s *server) container(id uint32) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

// all returns the containers that are ready.
func (s *server) all() []*container {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*container
	for _, c := range s.containers {
		if c.ready {
			all = append(all, c)
		}
	}
	return all
}

// create makes the container ready for processes. Nothing stays of one that fails.
func (c *container) create() error {
	err := c.setup()
	if err != nil {
		c.end()
		if c.release() == nil { // else Remove tries again; the first error says why
			c.s.forget(c)
		}
		return err
	}
	c.s.mu.Lock()
	c.ready = true
	c.s.mu.Unlock()
	return nil
}

// end lets the container have no further process.
func (c *container) end() {
	c.s.mu.Lock()
	c.over = true
	c.s.mu.Unlock()
}

func (c *container) setup() error {
	var err error
	if c.group, err = makeCgroup(c.ID); err != nil {
		return wrap("the container's cgroup", err)
	}
	c.oom.events = c.group.file("memory.events")
	if err := c.group.limit(c.Limits); err != nil {
		return err
	}
	pids, err := c.openPIDs()
	if err != nil {
		return err
	}
	if c.sp, err = newSpawner(pids); err != nil {
		return err
	}
	err = c.sp.do(func() error {
		if err := c.mountRoot(); err != nil {
			return err
		}
		if err := c.sp.open(c.Upper != ""); err != nil {
			return err
		}
		if err := c.findDevices(); err != nil {
			return err
		}
		return wrap("the container's devices", allowDevices(&c.Container))
	})
	if err != nil {
		return err
	}
	limitMemory()
	c.spaceMu.Lock()
	defer c.spaceMu.Unlock()
	c.mounted = true
	return c.limitSpace()
}

// remove ends the container's processes and returns when its disks are free. It can
// be asked for again if it fails.
func (s *server) remove(id uint32) error {
	s.mu.Lock()
	c := s.containers[id]
	switch {
	case c == nil:
		s.mu.Unlock()
		return errNoContainer
	case c.removing || !c.ready && !c.over:
		s.mu.Unlock()
		return &failure{wire.CodeInvalid, "the container is being made or removed"}
	}
	c.over, c.removing, c.ready = true, true, false // no fork from here on
	s.mu.Unlock()
	if err := c.release(); err != nil {
		s.mu.Lock()
		c.removing = false
		s.mu.Unlock()
		return err
	}
	s.forget(c)
	return nil
}

func (s *server) forget(c *container) {
	s.mu.Lock()
	delete(s.containers, c.ID)
	s.mu.Unlock()
}

// release lets go of what the container has, in the order that each needs. What is
// done is not done again.
func (c *container) release() error {
	if c.group != nil && !c.group.gone {
		if err := c.group.empty(); err != nil {
			return err
		}
	}
	if c.sp != nil {
		c.spaceMu.Lock() // setSpace may be using it
		c.mounted = false
		c.spaceMu.Unlock()
		c.sp.end()
		c.sp = nil
	}
	if err := removeDevices(c.ID); err != nil {
		return err
	}
	if err := c.freeDisks(); err != nil {
		return err
	}
	if c.group == nil {
		return nil
	}
	return c.group.remove()
}

// quiesce brings all that was written to the container's disk. When its processes have
// ended, nobody writes any more, and what is in the journal may stay there: who reads
// the disk plays it back. Else its file system is left as if it were unmounted, and what
// writes from now on waits for ever.
func (c *container) quiesce() error {
	c.s.mu.Lock()
	over := c.over
	c.s.mu.Unlock()
	c.spaceMu.Lock()
	defer c.spaceMu.Unlock()
	if !c.mounted || c.sp.upper < 0 {
		return nil
	}
	if over {
		return os.NewSyscallError("syncfs", unix.Syncfs(c.sp.upper))
	}
	const fifreeze = 0xc0045877 // _IOWR('X', 119, int), see ioctl_fsfreeze(2)
	if err := unix.IoctlSetInt(c.sp.upper, fifreeze, 0); err != nil && err != unix.EBUSY {
		return pathError("freeze", upperDir, err)
	}
	return nil
}

// quiesce does so for every container, and tells of the first that failed.
func (s *server) quiesce() error {
	var first error
	for _, c := range s.all() {
		if err := c.quiesce(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
