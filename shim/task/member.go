package task

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
)

// member is the place of a container in a pod's machine, which was there before and
// stays after it. Its disks come and go as LUNs.
type member struct {
	c   *Container
	pod *pod
	// pids is the container whose PID namespace is shared, or nil.
	pids *Container
	// over is closed when the container ends without its machine.
	over chan struct{}
	// remove takes the container out of the guest, once; a second caller waits.
	remove func()

	// shares are the container's while it is in the guest; start's, and then settle's.
	shares *share.Group

	mu      sync.Mutex
	leaving bool
	in      unikernel.ContainerSession
	cpu     specs.LinuxCPU // the limits in force
}

var _ place = (*member)(nil)

func newMember(c *Container, p *pod) *member {
	m := &member{c: c, pod: p, over: make(chan struct{})}
	m.remove = sync.OnceFunc(m.removeOnce)
	return m
}

// read implements place.
func (m *member) read(*creation) (err error) {
	c, spec := m.c, m.c.app.Spec
	c.sandbox, c.volumes = m.pod.keeper.sandbox, m.pod.volumes
	if cpu := cpuLimits(spec); cpu != nil {
		m.cpu = *cpu
	}
	spec.Mounts = m.pod.mountsOf(spec)
	if spec.Linux != nil {
		spec.Linux.Namespaces, m.pids, err = m.pod.namespaces(spec.Linux.Namespaces)
	}
	return err
}

// join implements place.
func (m *member) join(_ context.Context, cr *creation) error {
	if err := m.c.sandbox.Join(m.c.names.ID); err != nil {
		return err
	}
	cr.undo.add("leave the pod", m.release)
	return recordMember(m.c.names, m.c.bundle)
}

// plan implements place. No other container's disks have the serials.
func (m *member) plan(context.Context, *creation) (err error) {
	c, keeper := m.c, m.pod.keeper
	if c.cfg.Guest != keeper.cfg.Guest {
		return fmt.Errorf("%w: the pod's machine runs the guest %q, and the container asks for %q: all of a pod have one guest, which an annotation of the pod chooses: %sguest=%[3]s",
			unikernel.ErrNotImplemented, keeper.cfg.Guest, c.cfg.Guest, config.AnnotationPrefix)
	}
	if limit := memoryLimit(c.app.Spec); limit > 0 && limit < leastMemory {
		return fmt.Errorf("%w: the container has a limit of memory of %d KiB, and starting a program takes %d KiB: raise the limit",
			unikernel.ErrInvalid, limit>>10, leastMemory>>10)
	}
	c.guest = keeper.guest
	if c.plan, err = c.guest.Plan(c.app, c.sandbox.Size()); err != nil {
		return err
	}
	key := unikernel.Key(c.names.Namespace, c.names.ID)[:serialKey]
	for i := range c.plan.Disks {
		c.plan.Disks[i].Serial = fmt.Sprintf("%s-%d", key, i)
	}
	return nil
}

// leastMemory is what a container of a pod needs, in bytes: with 1 MiB the guest's
// kernel ends its program before it runs, with 1.5 MiB a shell sleeps (measured).
const leastMemory = 2 << 20

// serialKey is how much of a container's key is in its disks' serials, which have at
// most 20 bytes.
const serialKey = 17

// occupy implements place.
func (m *member) occupy(ctx context.Context, hooks func(context.Context, int) error) (*sandbox.StandIn, error) {
	standIn, err := m.c.sandbox.AddStandIn(m.c.names.ID)
	if err == nil && hooks != nil {
		err = hooks(ctx, standIn.Pid())
	}
	return standIn, err
}

// build implements place: the machine is there.
func (m *member) build(_ context.Context, cr *creation) error {
	if len(m.c.app.Shares) > 0 {
		cr.warnOfSockets()
	}
	cr.undo.add("forget its processors", func(context.Context) error { m.pod.unpin(m.c); return nil })
	if err := m.pod.pin(m.c, m.cpu.Cpus); err != nil {
		return err
	}
	return m.pod.admit(m.c)
}

// enter implements place.
func (m *member) enter(ctx context.Context) (inGuest, error) {
	c := m.c
	session, ok := c.sandbox.Session().(unikernel.PodSession)
	if !ok {
		return nil, fmt.Errorf("pod %s is not running: %w", m.pod.keeper.names.ID, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := m.untilLeaving(ctx)
	defer cancel()
	app, err := m.plug(ctx, session)
	if err != nil {
		return nil, err
	}
	if app.PIDs, err = m.pidNamespace(); err != nil {
		return nil, err
	}
	in, err := session.Container(ctx, app, c.plan.Disks)
	if err != nil {
		return nil, &programError{err}
	}
	m.mu.Lock()
	m.in = in
	leaving := m.leaving
	m.mu.Unlock()
	if leaving { // it was not there yet for remove
		m.takeOut(in)
		return nil, errKilled
	}
	return in, nil
}

// pidNamespace is that of the guest's containers to be in.
func (m *member) pidNamespace() (unikernel.PIDNamespace, error) {
	if m.pids == nil {
		return unikernel.PIDNamespace{}, nil
	}
	if m.pids == m.pod.keeper {
		return unikernel.PIDNamespace{Pod: true}, nil
	}
	m.pids.mu.Lock()
	defer m.pids.mu.Unlock()
	of, ok := m.pids.in.(unikernel.ContainerSession)
	if !ok || m.pids.state != Running {
		return unikernel.PIDNamespace{}, fmt.Errorf("container %s, whose processes are to be seen, is %s: %w", m.pids.names.ID, m.pids.state, errdefs.ErrFailedPrecondition)
	}
	return unikernel.PIDNamespace{Of: of}, nil
}

// plug gives the machine what the container brings: disks, and at the same time what
// is shared and its volumes.
func (m *member) plug(ctx context.Context, session unikernel.Session) (unikernel.App, error) {
	app := m.c.app
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.c.sandbox.Attach(ctx, m.c.disks.list()...) })
	group.Go(func() error { return m.c.fillVolumes(ctx, session) })
	group.Go(func() (err error) {
		if len(app.Shares) == 0 {
			return nil
		}
		if m.shares, err = m.pod.shares.Add(app.Shares); err == nil {
			app.Shares = m.shares.Shares
		}
		return err
	})
	err := group.Wait()
	return app, err
}

// unplug takes it away again.
func (m *member) unplug() (disks error) {
	if m.shares != nil {
		if err := m.shares.Remove(); err != nil {
			m.c.log().WithError(err).Warn("what was shared with the container stays mounted until the pod is deleted")
		}
	}
	m.c.dropVolumes()
	return m.c.sandbox.Detach(context.Background(), m.c.disks.list()...)
}

// untilLeaving is a context that ends with the container's place.
func (m *member) untilLeaving(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-m.over:
			cancel()
		case <-m.c.sandbox.Ended():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// expel implements place.
func (m *member) expel() { m.remove() }

// expelled implements place.
func (m *member) expelled() <-chan struct{} { return m.over }

func (m *member) removeOnce() {
	m.mu.Lock()
	m.leaving = true
	in := m.in
	m.mu.Unlock()
	if in != nil {
		m.takeOut(in)
	}
	close(m.over)
}

// takeOut has the guest remove the container. A guest that does not answer holds
// nothing that can go on: its machine is destroyed, and the pod can be made anew.
func (m *member) takeOut(in unikernel.ContainerSession) {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- in.Remove(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-m.c.sandbox.Ended():
		return
	case <-ctx.Done():
		err = fmt.Errorf("%w within %s", errBootTimeout, removeTimeout)
	}
	switch {
	case err == nil, errors.Is(err, unikernel.ErrNotFound):
	case errors.Is(err, unikernel.ErrUnavailable), errors.Is(err, errBootTimeout):
		m.c.log().WithError(err).Error("the guest does not take the container out; the pod's machine is destroyed")
		m.c.sandbox.Destroy()
	default:
		// Its disks are pulled out, as by a power cut for this container alone.
		m.c.log().WithError(err).Error("the guest did not take the container out: what it wrote last may be missing")
	}
}

// settle implements place. The guest has written all to the disks when it has taken
// the container out.
func (m *member) settle(bool) {
	m.remove()
	c := m.c
	m.pod.leave(c)
	if err := m.unplug(); err != nil {
		c.log().WithError(err).Error("the container's disks stay with the pod's machine; what it wrote is not saved")
		return
	}
	if c.disks.writes() {
		c.save()
	}
}

// release implements place.
func (m *member) release(ctx context.Context) error {
	m.pod.unpin(m.c)
	m.pod.dismiss(m.c)
	return errors.Join(m.c.sandbox.Release(ctx, m.c.names.ID), forgetMember(m.c.names))
}

// freezer implements place: the others of the pod go on.
func (m *member) freezer() (freezer, error) { return m, nil }

// Pause implements freezer.
func (m *member) Pause() error { return m.freeze(true) }

// Resume implements freezer.
func (m *member) Resume() error { return m.freeze(false) }

func (m *member) freeze(frozen bool) error {
	m.mu.Lock()
	in, ok := m.in.(unikernel.Freezer)
	m.mu.Unlock()
	if !ok {
		return fmt.Errorf("%w: the guest %q cannot pause one of several containers", unikernel.ErrNotImplemented, m.c.guest.Name())
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	ctx, done := m.untilLeaving(ctx)
	defer done()
	return in.Freeze(ctx, frozen)
}

// limitCPU implements place: in the guest.
func (m *member) limitCPU(ctx context.Context, cpu *specs.LinuxCPU) error {
	if cpu.Mems != "" {
		m.c.log().Warn("a set of memory nodes is the host's, and a pod's machine has none")
	}
	if cpu.Cpus != "" {
		if err := m.pod.pin(m.c, cpu.Cpus); err != nil {
			return err
		}
		if *cpu == (specs.LinuxCPU{Cpus: cpu.Cpus}) {
			return nil
		}
	}
	m.mu.Lock()
	all := m.cpu
	m.mu.Unlock()
	for to, from := range map[**int64]*int64{&all.Quota: cpu.Quota} {
		if from != nil {
			*to = from
		}
	}
	for to, from := range map[**uint64]*uint64{&all.Period: cpu.Period, &all.Shares: cpu.Shares} {
		if from != nil {
			*to = from
		}
	}
	if err := m.c.tellLimits(ctx, unikernel.Limits{CPU: &all}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cpu = all
	return nil
}

// inForce implements place: the guest was told all of them.
func (m *member) inForce() inForce { return m.c.askedLimits() }
