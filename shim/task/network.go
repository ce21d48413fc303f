package task

import (
	"context"
	"fmt"

	"containerd-shim-uni/shim/hooks"
	"containerd-shim-uni/unikernel"
)

// network prepares the namespace whose interfaces the machine takes over: the
// one the client gave, or a new one. The client's hooks may fill the latter, as
// nerdctl's do.
func (cr *creation) network(ctx context.Context) error {
	if cr.ownNetns {
		cr.undo.add("remove network namespace", func(context.Context) error { return cr.networks.Drop(cr.netns) })
		if err := cr.networks.New(cr.netns); err != nil {
			return err
		}
	}
	if err := cr.occupy(); err != nil {
		return err
	}
	if err := cr.hooks(ctx); err != nil {
		return err
	}
	var err error
	cr.found, err = cr.networks.Look(cr.netns)
	return err
}

// hooks runs the hooks of creation. They know the container by its process on
// the host.
func (cr *creation) hooks(ctx context.Context) error {
	if cr.app.Spec.Hooks == nil {
		return nil
	}
	cr.undo.add("run poststop hooks", func(ctx context.Context) error { return hooks.Stopped(ctx, cr.app, cr.bundle) })
	return hooks.Create(ctx, cr.app, cr.bundle, cr.pid())
}

// taps makes the machine's taps where its processes will be.
func (c *Container) taps(n unikernel.Network) ([]unikernel.NIC, error) {
	where := ""
	if c.machines.InNetNS() {
		where = c.netns
	}
	return c.networks.Tap(c.names.Key, where, n, max(c.plan.Queues, 1))
}

// lateNetwork replaces the machine, which has not run yet, if its namespace
// got interfaces since it was created: "ctr run --cni" fills it only then.
func (c *Container) lateNetwork(ctx context.Context) error {
	if !c.ownNetns || len(c.app.Network.Interfaces) > 0 {
		return nil
	}
	found, err := c.networks.Look(c.netns)
	if err != nil || len(found.Interfaces) == 0 {
		return err
	}
	done := c.beginReplacement()
	defer close(done)
	if err := c.replaceMachine(ctx, found); err != nil {
		return fmt.Errorf("create the machine again, now with its network: %w", err)
	}
	return nil
}

func (c *Container) replaceMachine(ctx context.Context, found unikernel.Network) error {
	if err := c.machines.Destroy(ctx, c.names.Domain()); err != nil {
		return err
	}
	app := c.app
	app.Network = found
	if err := c.configure(ctx, app); err != nil {
		return err
	}
	nics, err := c.taps(found)
	if err != nil {
		return err
	}
	pids, err := c.machines.Create(ctx, c.document(nics))
	if err != nil {
		return err
	}
	c.vm.adopt(pids.VM)
	if err := c.settle(pids, found); err != nil {
		return err
	}
	old := c.console
	old.Close()
	c.mu.Lock()
	c.console = c.attachConsole()
	c.app.Network = found
	c.mu.Unlock()
	return context.Cause(ctx) // killed meanwhile: the new machine must not run
}

// settle puts a paused machine where it belongs on the host.
func (c *Container) settle(pids unikernel.Pids, n unikernel.Network) error {
	if err := c.vm.score(c.app.Spec.Process.OOMScoreAdj); err != nil {
		c.log().WithError(err).Info("the hypervisor keeps the shim's out-of-memory score")
	}
	if c.group != nil {
		if err := c.group.Add(append([]int{c.pid(), pids.VM}, pids.Helpers...)...); err != nil {
			return err
		}
	}
	if len(n.Interfaces) == 0 {
		return nil
	}
	return c.networks.Join(c.names.Key, c.netns, n)
}

// beginReplacement tells awaitMachine that the machine's end is not the
// container's. The caller closes the channel when there is a machine again, or
// will be none.
func (c *Container) beginReplacement() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replacement = make(chan struct{})
	return c.replacement
}

// replaced returns the channel of the last replacement, or nil.
func (c *Container) replaced() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replacement
}
