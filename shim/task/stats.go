package task

import (
	"context"
	"fmt"

	"containerd-shim-uni/shim/metrics"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

// Stats returns what the container uses, in containerd's type for the host's
// version of cgroups. A machine that does not answer, because it is paused or
// busy, is said to use what it did when it was last asked.
func (c *Container) Stats(ctx context.Context) (proto.Message, error) {
	if err := c.step(opStats); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	host, err := c.sandbox.Stats()
	if err != nil {
		return nil, err
	}
	ram := uint64(c.sandbox.Size().MemoryMiB) * mib
	if counted := c.count(ctx); counted != nil {
		return metrics.Container(*counted, host, ram), nil
	}
	return metrics.Machine(host, ram), nil
}

// HostStats returns what the container's machine and its helpers use on the host, in
// containerd's type for the host's version of cgroups.
func (c *Container) HostStats() (proto.Message, error) {
	if err := c.step(opStats); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return c.withMachine().sandbox.Stats()
}

// count asks the guest what it counted, and returns what it said last if it
// does not answer; nil if it counts nothing.
func (c *Container) count(ctx context.Context) *unikernel.Stats {
	c.mu.Lock()
	accountant, ok := as[unikernel.Accountant](c.in)
	last, running := c.counted, c.state == Running
	c.mu.Unlock()
	if !ok || !running {
		return last
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	s, err := accountant.Stats(ctx)
	if err != nil {
		c.log().WithError(err).Debug("the guest does not tell what the container uses")
		return last
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted = &s
	return &s
}
