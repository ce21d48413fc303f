package task

import (
	"context"
	"fmt"
	"time"

	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/unikernel"
)

// takeVolumes has the machine keep what it can of the container's bind mounts, in
// place of sharing it.
func (cr *creation) takeVolumes() error {
	if !cr.plan.Volumes {
		return nil
	}
	rest, mounted, err := cr.volumes.Take(cr.app.Spec.Mounts, cr.names.ID, cr.names.Sandbox.ID)
	if err != nil || len(mounted.Mounts) == 0 {
		return err
	}
	cr.mounted, cr.app.Volumes = mounted, mounted.Mounts
	cr.app.Shares, err = share.Plan(rest)
	return err
}

// fillVolumes makes the machine have them, before the container runs.
func (c *Container) fillVolumes(ctx context.Context, session unikernel.Session) error {
	if c.mounted == nil {
		return nil
	}
	defer c.took("volumes", time.Now())
	keeper, ok := session.(unikernel.VolumeKeeper)
	if !ok {
		return fmt.Errorf("%w: volumes in a machine of the guest %s", unikernel.ErrNotImplemented, c.guest.Name())
	}
	return c.mounted.Fill(ctx, keeper)
}

// dropVolumes takes away those that no other container of the machine has.
func (c *Container) dropVolumes() {
	keeper, ok := c.sandbox.Session().(unikernel.VolumeKeeper)
	if c.mounted == nil || !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	if err := c.mounted.Remove(ctx, keeper); err != nil {
		c.log().WithError(err).Debug("copies of the container's files stay in its machine")
	}
}
