package task

import (
	"context"
	"fmt"
	"os"
	"time"

	"containerd-shim-uni/unikernel"
)

// imageFiles copies what boots out of the container's image, and completes the
// plan by it.
func (cr *creation) imageFiles(ctx context.Context) error {
	defer cr.took("image files", time.Now())
	loader, ok := cr.guest.(unikernel.Loader)
	if !ok || cr.plan.Control != "" {
		return fmt.Errorf("%w: guest %q boots files of the image and has a control channel", unikernel.ErrNotImplemented, cr.guest.Name())
	}
	disks, err := cr.rootDisks()
	if err != nil {
		return err
	}
	want := cr.plan.Image
	have := unikernel.ImageFiles{Kernel: cr.names.kernel(), Initrd: cr.names.initrd(), Disk: cr.names.imageDisk()}
	if err := disks.ImageFiles(ctx, cr.fs, *want, have); err != nil {
		return err
	}
	kernel, err := os.Open(have.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	if cr.plan, err = loader.Complete(cr.plan, kernel); err != nil {
		return err
	}
	cr.plan.Kernel = have.Kernel
	if want.Initrd != "" {
		cr.plan.Initrd = have.Initrd
	}
	if want.Disk == "" || cr.readOnly() {
		return nil
	}
	return disks.DiskLayer(have.Disk, cr.names.imageLayer())
}

// commandLine is about a guest that learns its configuration from its kernel's
// command line: it is written when the network is known.
func (c *Container) commandLine(n unikernel.Network) (err error) {
	loader, ok := c.guest.(unikernel.Loader)
	if !ok {
		return nil
	}
	app := c.app
	app.Network = n
	c.plan.Cmdline, err = loader.Cmdline(app)
	return err
}

// imageDisks are those of a machine whose kernel is the image's.
func (c *Container) imageDisks() []unikernel.Disk {
	switch {
	case c.plan.Image.Disk == "":
		return nil
	case c.readOnly():
		return []unikernel.Disk{{Path: c.names.imageDisk(), Format: "raw", Serial: unikernel.SerialRoot, ReadOnly: true}}
	default:
		return []unikernel.Disk{{Path: c.names.imageLayer(), Format: "qcow2", Serial: unikernel.SerialRoot, Ephemeral: true}}
	}
}

// readOnly says whether the container asks for a root that it cannot write to.
func (c *Container) readOnly() bool { return c.app.Spec.Root != nil && c.app.Spec.Root.Readonly }
