package task

import (
	"context"
	"time"

	"github.com/containerd/log"
)

// save puts what the container wrote into its snapshot. No machine uses its disks.
func (c *Container) save() {
	defer c.took("save", time.Now())
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	if err := c.disks.save(ctx); err != nil {
		c.log().WithError(err).Error("what the container wrote is on its disk and not in its snapshot: it is there when the container starts again, and not for others (commit, cp, diff)")
	}
}

// sweep frees, after the first container was made, what crashes of the host have
// left. Nobody waits for it, and what it has not done when the shim ends is done
// by the next one.
func sweep(disks Disks) {
	ctx, cancel := context.WithTimeout(context.Background(), saveTimeout)
	defer cancel()
	if err := disks.Sweep(ctx); err != nil {
		log.L.WithError(err).Warn("what a crash of the host left could not be removed")
	}
}
