package task

import (
	"context"
	"slices"
	"strings"
	"time"

	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"
)

// hardware is what the container's machine is made of for a network: it tells
// the guest what it must find when it boots.
func (c *Container) hardware(ctx context.Context, n unikernel.Network) (sandbox.Hardware, error) {
	defer c.took("configuration", time.Now())
	app := c.app
	app.Network, app.Nameservers = n, nameservers(app.Spec.Mounts)
	told, err := c.guest.Prepare(app)
	if err != nil {
		return sandbox.Hardware{}, err
	}
	c.doesWithout(told.Without)
	if err := c.disks.configure(ctx, told.Boot); err != nil {
		return sandbox.Hardware{}, err
	}
	boot := c.plan.Boot
	boot.Cmdline = slices.Concat(boot.Cmdline, told.Cmdline)
	return sandbox.Hardware{
		Boot: boot, OwnKernel: c.plan.Image != nil,
		Disks: c.disks.list(), Record: c.disks.record,
		Submounts: share.Several(c.app.Shares),
	}, nil
}

// shares says whether the container has directories of the host.
func (c *Container) shares() bool { return len(c.app.Shares) > 0 && c.plan.ShareTag != "" }

// doesWithout tells what the container asked for and its guest has not.
func (c *Container) doesWithout(list []string) {
	if len(list) > 0 {
		c.log().Warnf("the guest %s has no such thing, and the container does without: %s", c.guest.Name(), strings.Join(list, "; "))
	}
}
