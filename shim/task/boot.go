package task

import (
	"context"
	"io"
	"strings"
	"time"

	"containerd-shim-uni/shim/console"
	"containerd-shim-uni/unikernel"
)

// configure tells the guest what it must find when it boots. It is called when
// hooks have run and the network is known.
func (c *Container) configure(ctx context.Context, app unikernel.App) (err error) {
	defer c.took("configuration", time.Now())
	if c.prepared, err = c.guest.Prepare(app); err != nil {
		return err
	}
	c.doesWithout(c.prepared.Without)
	return c.disks.configure(ctx, c.prepared.Boot)
}

// doesWithout tells what the container asked for and its guest has not.
func (c *Container) doesWithout(list []string) {
	if len(list) > 0 {
		c.log().Warnf("the guest %s has no such thing, and the container does without: %s", c.guest.Name(), strings.Join(list, "; "))
	}
}

// attachConsole begins to read the machine's console: for diagnosis, and for a
// guest that has no other voice.
func (c *Container) attachConsole() *console.Console {
	if !c.plan.Alone() {
		return console.Attach(c.names.console(), nil)
	}
	r, w := io.Pipe()
	c.output = r
	return console.Attach(c.names.console(), w)
}

// booted is the machine as its guest sees it.
type booted struct{ c *Container }

// Control implements unikernel.Booted.
func (b booted) Control(ctx context.Context) (io.ReadWriteCloser, error) {
	return console.Dial(ctx, b.c.names.control())
}

// Console implements unikernel.Watched.
func (b booted) Console() io.ReadCloser { return b.c.output }

// PowerButton implements unikernel.Watched.
func (b booted) PowerButton(ctx context.Context) error {
	return b.c.machines.PowerButton(ctx, b.c.names.Domain())
}

// Ended implements unikernel.Watched.
func (b booted) Ended(ctx context.Context) (unikernel.End, error) {
	return b.c.machines.Wait(ctx, b.c.names.Domain())
}

// Record implements unikernel.Watched.
func (b booted) Record() ([]byte, error) { return b.c.disks.record() }
