package task

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"containerd-shim-uni/shim/console"
	"containerd-shim-uni/unikernel"
)

// bootDisk makes the disk of a guest that boots from its root.
func (cr *creation) bootDisk(ctx context.Context) error {
	if _, ok := cr.guest.(unikernel.Configurer); !ok || cr.plan.Control != "" {
		return fmt.Errorf("%w: guest %q has a boot disk and a control channel", unikernel.ErrNotImplemented, cr.guest.Name())
	}
	disks, err := cr.rootDisks()
	if err != nil {
		return err
	}
	if err := disks.BootDisk(ctx, cr.fs, *cr.plan.Disk, cr.names.bootDisk()); err != nil {
		return fmt.Errorf("root disk: %w", err)
	}
	return nil
}

// configureBoot makes the layer over the boot disk and its volumes, if the guest
// has one. It is called when hooks have run and the network is known.
func (c *Container) configureBoot(ctx context.Context, app unikernel.App) error {
	w, ok := c.guest.(unikernel.Configurer)
	if !ok || c.plan.Disk == nil {
		return nil
	}
	boot, err := w.Configure(app)
	if err != nil {
		return err
	}
	c.doesWithout(boot.Without)
	defer c.took("configuration", time.Now())
	c.volumes, err = c.disks.Configure(ctx, unikernel.Disk{Path: c.names.bootDisk(), Format: c.rootFormat}, c.names.bootLayer(), c.cfg.Rootfs.WritableSize, boot)
	return err
}

// doesWithout tells what the container asked for and its guest has not.
func (c *Container) doesWithout(list []string) {
	if len(list) > 0 {
		c.log().Warnf("the guest %s has no such thing, and the container does without: %s", c.guest.Name(), strings.Join(list, "; "))
	}
}

// attachConsole begins to read the machine's console: for diagnosis, and for a
// guest without a control channel.
func (c *Container) attachConsole() *console.Console {
	if _, ok := c.guest.(unikernel.Watcher); !ok {
		return console.Attach(c.names.console(), nil)
	}
	r, w := io.Pipe()
	c.output = r
	return console.Attach(c.names.console(), w)
}

// watched is the machine as its guest's Watcher sees it.
type watched struct{ c *Container }

// Console implements unikernel.Watched.
func (w watched) Console() io.ReadCloser { return w.c.output }

// PowerButton implements unikernel.Watched.
func (w watched) PowerButton(ctx context.Context) error {
	return w.c.machines.PowerButton(ctx, w.c.names.Domain())
}

// Ended implements unikernel.Watched.
func (w watched) Ended(ctx context.Context) (unikernel.End, error) {
	return w.c.machines.Wait(ctx, w.c.names.Domain())
}

// Record implements unikernel.Watched.
func (w watched) Record() ([]byte, error) {
	if w.c.plan.Disk == nil {
		return nil, nil
	}
	return w.c.disks.Record(w.c.names.bootLayer())
}
