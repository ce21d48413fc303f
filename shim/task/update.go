package task

import (
	"context"
	"fmt"
	"reflect"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Update changes limits. Those of memory and processes hold in the machine, up
// to its size, those of CPU on the host. What cannot be changed is an error, and
// then nothing is; what is as the container was created with is no change.
func (c *Container) Update(ctx context.Context, res *specs.LinuxResources) error {
	if err := c.step(opUpdate); err != nil {
		return err
	}
	err := c.updatable(res)
	if err == nil {
		err = c.limitGuest(ctx, res)
	}
	if err == nil && res.CPU != nil {
		err = c.place.limitCPU(ctx, res.CPU)
	}
	if err != nil {
		return fmt.Errorf("update container %s: %w", c.names.ID, err)
	}
	return nil
}

// Fits says why the container's machine, or its pod's, cannot have limits; nil if it can.
func (c *Container) Fits(res *specs.LinuxResources) error { return c.withMachine().updatable(res) }

// withMachine is the container itself, but for a pod's own that brings no machine.
func (c *Container) withMachine() *Container {
	if k, ok := c.place.(*keeper); ok {
		return k.pod.withMachine()
	}
	return c
}

// created is what the container was created with.
func (c *Container) created() *specs.LinuxResources {
	if l := c.app.Spec.Linux; l != nil && l.Resources != nil {
		return l.Resources
	}
	return &specs.LinuxResources{}
}

// updatable refuses what cannot be changed.
func (c *Container) updatable(res *specs.LinuxResources) error {
	if m := res.Memory; m != nil && m.Limit != nil && *m.Limit/mib > int64(c.sandbox.Size().MemoryMiB) && *m.Limit/mib < maxMemoryMiB {
		return fmt.Errorf("%w: its machine has %d MiB of RAM, and that cannot grow while it runs; asked for was a limit of %d MiB",
			unikernel.ErrNotImplemented, c.sandbox.Size().MemoryMiB, *m.Limit/mib)
	}
	if cpu := res.CPU; cpu != nil && cpu.Quota != nil && *cpu.Quota > 0 {
		period := uint64(defaultPeriod)
		if cpu.Period != nil && *cpu.Period > 0 {
			period = *cpu.Period
		}
		if uint64(*cpu.Quota) > period*uint64(c.sandbox.Size().VCPUs) {
			return fmt.Errorf("%w: its machine has %d virtual CPUs, and that cannot change while it runs; asked for was the time of %.2f",
				unikernel.ErrNotImplemented, c.sandbox.Size().VCPUs, float64(*cpu.Quota)/float64(period))
		}
	}
	was := c.created()
	for _, part := range []struct {
		name     string
		asked    any
		as       any
		harmless bool
	}{
		{"block I/O", res.BlockIO, was.BlockIO, res.BlockIO == nil},
		{"huge pages", res.HugepageLimits, was.HugepageLimits, !limitsHugepages(res)},
		{"network class and priorities", res.Network, was.Network, res.Network == nil},
		{"RDMA", res.Rdma, was.Rdma, len(res.Rdma) == 0},
		{"cgroup files (unified)", res.Unified, was.Unified, len(res.Unified) == 0},
		{"devices", res.Devices, was.Devices, len(res.Devices) == 0},
		{"real time", realtime(res), realtime(was), realtime(res) == [2]int64{}},
	} {
		if !part.harmless && !reflect.DeepEqual(part.asked, part.as) {
			return fmt.Errorf("%w: limits of %s cannot change while the container's machine runs", unikernel.ErrNotImplemented, part.name)
		}
	}
	return nil
}

// limitsHugepages tells whether any size of huge pages gets a limit but 0: the
// guest has none, and clients write a 0 for each size.
func limitsHugepages(res *specs.LinuxResources) bool {
	for _, h := range res.HugepageLimits {
		if h.Limit > 0 {
			return true
		}
	}
	return false
}

// realtime is a specification's CPU time for real-time processes.
func realtime(res *specs.LinuxResources) (t [2]int64) {
	if cpu := res.CPU; cpu != nil && cpu.RealtimeRuntime != nil {
		t[0] = *cpu.RealtimeRuntime
	}
	if cpu := res.CPU; cpu != nil && cpu.RealtimePeriod != nil {
		t[1] = int64(*cpu.RealtimePeriod)
	}
	return t
}

// guestLimits are the limits that hold in the machine and are not in force. A
// limit of swap or a reservation of memory needs nothing: there is no swap, and
// all of the RAM is the container's.
func guestLimits(res *specs.LinuxResources, in inForce, ram uint64) (l unikernel.Limits) {
	if m := res.Memory; m != nil && m.Limit != nil && *m.Limit != 0 {
		limit := uint64(0) // -1, and as much as the machine has, is no limit
		if *m.Limit > 0 && uint64(*m.Limit)/mib < ram/mib {
			limit = uint64(*m.Limit)
		}
		if limit != in.memory {
			l.Memory = &limit
		}
	}
	if p := res.Pids; p != nil && p.Limit != nil {
		if limit := uint64(max(*p.Limit, 0)); limit != in.pids {
			l.Pids = &limit
		}
	}
	return l
}

// inForce are the limits that the guest holds the container to; 0 is none.
type inForce struct{ memory, pids uint64 }

// askedLimits are those that the container was created with.
func (c *Container) askedLimits() (in inForce) {
	l := guestLimits(c.created(), inForce{}, uint64(c.sandbox.Size().MemoryMiB)*mib)
	if l.Memory != nil {
		in.memory = *l.Memory
	}
	if l.Pids != nil {
		in.pids = *l.Pids
	}
	return in
}

// limitsInForce returns those that the guest was given first, or by Update since.
func (c *Container) limitsInForce() inForce {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limits != nil {
		return *c.limits
	}
	return c.place.inForce()
}

// limitGuest has the guest hold the container to limits.
func (c *Container) limitGuest(ctx context.Context, res *specs.LinuxResources) error {
	in := c.limitsInForce()
	l := guestLimits(res, in, uint64(c.sandbox.Size().MemoryMiB)*mib)
	if l == (unikernel.Limits{}) {
		return nil
	}
	if err := c.tellLimits(ctx, l); err != nil {
		return err
	}
	if l.Memory != nil {
		in.memory = *l.Memory
	}
	if l.Pids != nil {
		in.pids = *l.Pids
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits = &in
	return nil
}

// limiter is a guest that holds a container to limits.
type limiter interface {
	Limit(context.Context, unikernel.Limits) error
}

// tellLimits tells the guest of limits.
func (c *Container) tellLimits(ctx context.Context, l unikernel.Limits) error {
	c.mu.Lock()
	state, in := c.state, c.in
	guest, ok := as[limiter](in)
	c.mu.Unlock()
	if in != nil && !ok {
		return fmt.Errorf("%w: guest %q cannot change limits of memory and processes", unikernel.ErrNotImplemented, c.guest.Name())
	}
	if state != Running {
		return fmt.Errorf("limits of memory and processes are changed in the machine, which is %s: %w", state, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	return guest.Limit(ctx, l)
}
