package task

import (
	"context"

	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// founder is the owner of a sandbox, which begins and ends with it.
type founder struct{ c *Container }

// found describes the sandbox, by the specification but for its size.
func (f founder) found(host Host, size unikernel.Resources) error {
	spec := f.c.app.Spec
	netns, err := networkNamespace(spec)
	if err != nil {
		return err
	}
	f.c.sandbox = sandbox.New(host, sandbox.Spec{
		Names: f.c.names.Sandbox, Config: f.c.cfg, Size: size, NetNS: netns,
		CgroupsPath: cgroupsPath(spec), CPU: cpuLimits(spec), OOMScoreAdj: spec.Process.OOMScoreAdj,
	})
	return nil
}

// join implements place.
func (f founder) join(ctx context.Context, cr *creation) error {
	if err := f.c.sandbox.Join(f.c.names.ID); err != nil {
		return err
	}
	if err := f.c.sandbox.Open(ctx); err != nil {
		return err
	}
	cr.undo.add("release sandbox", f.release)
	return nil
}

// connect connects to libvirt and chooses the guest.
func (f founder) connect(ctx context.Context, host Host) error {
	emulated, err := f.c.sandbox.Connect(ctx)
	if err != nil {
		return err
	}
	f.c.guest, err = host.Guest(f.c.cfg, emulated)
	return err
}

// occupy implements place.
func (f founder) occupy(ctx context.Context, hooks func(context.Context, int) error) (*sandbox.StandIn, error) {
	err := f.c.sandbox.Prepare(ctx, hooks)
	return f.c.sandbox.StandIn(), err
}

// share makes the directory that the machine shares.
func (f founder) share(cr *creation) (*share.Tree, error) {
	dir := f.c.names.Sandbox.Share()
	cr.undo.add("remove share", func(context.Context) error { return share.Unmount(dir) })
	tree, err := share.New(dir)
	if err == nil {
		cr.undo.add("close share", func(context.Context) error { _ = tree.Close(); return nil }) // the sandbox may have
	}
	return tree, err
}

// create makes the machine.
func (f founder) create(ctx context.Context, cr *creation, build sandbox.Build) error {
	// Before Create: it may fail, or we may die, when half of it is done.
	cr.undo.add("leave sandbox", func(context.Context) error { f.c.sandbox.Leave(f.c.names.ID); return nil })
	return f.c.sandbox.Create(ctx, f.c.guest, build)
}

// expel implements place.
func (f founder) expel() { f.c.sandbox.Destroy() }

// expelled implements place: it does not end without its sandbox.
func (f founder) expelled() <-chan struct{} { return nil }

// release implements place.
func (f founder) release(ctx context.Context) error { return f.c.sandbox.Release(ctx, f.c.names.ID) }

// limitCPU implements place: on the host.
func (f founder) limitCPU(_ context.Context, cpu *specs.LinuxCPU) error {
	return f.c.sandbox.UpdateCPU(cpu)
}

// alone is the place of a container that has its machine to itself.
type alone struct{ founder }

// read implements place.
func (a alone) read(cr *creation) error {
	size, err := resources(a.c.app.Spec, a.c.cfg.Machine)
	if err != nil {
		return err
	}
	return a.found(cr.host, size)
}

// plan implements place.
func (a alone) plan(ctx context.Context, cr *creation) error {
	if err := a.connect(ctx, cr.host); err != nil {
		return err
	}
	var err error
	a.c.plan, err = a.c.guest.Plan(a.c.app, a.c.sandbox.Size())
	return err
}

// build implements place.
func (a alone) build(ctx context.Context, cr *creation) error {
	// After the hooks, which may write what is shared: the container's hosts.
	var tree *share.Tree
	if a.c.shares() {
		cr.warnOfSockets()
		var err error
		if tree, err = a.share(cr); err != nil {
			return err
		}
		group, err := tree.Add(a.c.app.Shares)
		if err != nil {
			return err
		}
		a.c.app.Shares = group.Shares
	}
	return a.create(ctx, cr, func(ctx context.Context, n unikernel.Network) (sandbox.Hardware, error) {
		h, err := a.c.hardware(ctx, n)
		h.Share = tree
		return h, err
	})
}

// enter implements place.
func (a alone) enter(ctx context.Context) (inGuest, error) {
	session, err := a.c.sandbox.Boot(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.c.fillVolumes(ctx, session); err != nil {
		return nil, err
	}
	app := a.c.app
	app.Network = a.c.sandbox.Network()
	return sole{session, app}, nil
}

// settle implements place. The machine ends first, so that nothing of what the
// container wrote is lost.
func (a alone) settle(reported bool) {
	a.c.volumes.Close()
	if a.c.disks == nil || !a.c.disks.writes() {
		return
	}
	a.c.sandbox.Save(reported)
	a.c.save()
}

// freezer implements place: the machine.
func (a alone) freezer() (freezer, error) { return a.c.sandbox, nil }

// inForce implements place. Memory is limited by the machine's size.
func (a alone) inForce() inForce { return inForce{pids: a.c.askedLimits().pids} }
