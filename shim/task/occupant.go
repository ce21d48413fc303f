package task

import (
	"context"
	"syscall"
)

// occupant is a process in the container's network namespace. libvirtd runs
// machines in the host's: there, /proc/PID/ns/net of the hypervisor would be the
// host's, and who sets up a container's network by the number of its process,
// as "ctr run --cni" does, would set up the host's.
type occupant struct {
	*vmProcess
	end func()
}

// occupy starts one where it is needed.
func (cr *creation) occupy() error {
	if cr.machines.InNetNS() {
		return nil
	}
	pid, end, err := cr.networks.Occupy(cr.netns)
	if err != nil {
		return err
	}
	cr.occupant = &occupant{holdProcess(pid), end}
	cr.undo.add("end the process in the network namespace", func(context.Context) error { cr.occupant.close(); return nil })
	if cr.group == nil {
		return nil
	}
	return cr.group.Add(pid)
}

// close ends the process; a container without one is fine.
func (o *occupant) close() {
	if o != nil {
		o.end()
		o.vmProcess.close()
	}
}

// watchOccupant ends the container when its process on the host ends, as is
// true of other runtimes' containers.
func (c *Container) watchOccupant() {
	if c.occupant == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-c.exited
		cancel()
	}()
	if err := c.occupant.wait(ctx); err == nil {
		_ = c.Kill(ctx, syscall.SIGKILL, true) // refused if it has exited by itself
	}
}
