package task

import (
	"context"
	"sync"
	"syscall"
)

// occupant is the process that stands for the container on the host: its number
// is the container's, and what clients find through it in /proc is the
// container's network and nothing else. The hypervisor's would be the host.
type occupant struct {
	*vmProcess
	end func()
	// closing is closed before we end the process.
	closing chan struct{}
	once    sync.Once
}

// occupy starts it, before hooks are told its number.
func (cr *creation) occupy() error {
	pid, end, err := cr.networks.Occupy(cr.netns, cr.names.Namespace+"/"+cr.names.ID)
	if err != nil {
		return err
	}
	cr.occupant = &occupant{vmProcess: holdProcess(pid), end: end, closing: make(chan struct{})}
	cr.undo.add("end the process that stands for the container", func(context.Context) error { cr.occupant.close(); return nil })
	return nil
}

// close ends the process.
func (o *occupant) close() {
	o.once.Do(func() {
		close(o.closing)
		o.end()
		o.vmProcess.close()
	})
}

// watchOccupant ends the container when its process on the host is ended by
// somebody else, as is true of other runtimes' containers.
func (c *Container) watchOccupant() {
	if err := c.occupant.wait(context.Background()); err != nil {
		return // closed, or it cannot be watched
	}
	select {
	case <-c.occupant.closing:
	default:
		_ = c.Kill(context.Background(), syscall.SIGKILL, true) // refused if it has exited by itself
	}
}
