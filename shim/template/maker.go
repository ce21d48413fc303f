package template

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"containerd-shim-uni/shim/console"
	"containerd-shim-uni/unikernel"
)

// Machines runs machines as shim/sandbox has them run, and saves them.
type Machines interface {
	Create(context.Context, unikernel.Machine) (unikernel.Pids, error)
	Resume(ctx context.Context, name string) error
	Destroy(ctx context.Context, name string) error
	InNetNS() bool
	Shape(unikernel.Machine) (string, error)
	// Save stops a machine and writes its state.
	Save(ctx context.Context, name string, to *os.File) error
}

// Networks is what of shim/sandbox's a machine without a network needs.
type Networks interface {
	New(path string) error
	Drop(path string) error
	Tap(key, path string, n unikernel.Network, queues int) ([]unikernel.NIC, error)
	Remove(key, path string) error
}

// Guest connects to what runs in the machine.
type Guest interface {
	Attach(context.Context, io.ReadWriteCloser) (unikernel.Session, error)
}

// Store keeps templates, see builder/states.
type Store interface {
	Make(shape, about string, force bool, write func(*os.File) error) error
}

// Maker makes templates on a host.
type Maker struct {
	Machines Machines
	Networks Networks
	Guest    Guest
	Store    Store
	// Dir is a directory that is the makers' alone, and made and removed by them.
	// QEMU's user can pass through those above it.
	Dir string
	// BootTimeout is how long a guest may take until it answers, booting or not.
	BootTimeout time.Duration
}

const (
	// name is that of the machine, key that of its taps.
	name = "uni-template"
	key  = "template"
	// diskSize is that of the disks, in bytes: nobody reads them.
	diskSize = 1 << 20
	// cleanTimeout bounds freeing the host, whatever became of the caller.
	cleanTimeout = 30 * time.Second
)

// settle is how long the guest is left alone before it is saved: it sees that the
// channel was closed, and tells the host which memory it does not use (every 2 s,
// PAGE_REPORTING_DELAY of the kernel's mm/page_reporting.c). It is a variable for the
// tests alone.
var settle = 5 * time.Second

// Make makes a template for machines like m, unless there is one. With force one is
// made although an earlier one was no good.
func (k Maker) Make(ctx context.Context, m unikernel.Machine, force bool) error {
	shape, err := k.Machines.Shape(m)
	if err != nil {
		return err
	}
	return k.Store.Make(shape, about(m), force, func(f *os.File) error {
		if err := k.clean(ctx); err != nil {
			return fmt.Errorf("clean up after an earlier one: %w", err)
		}
		err := k.write(ctx, m, f)
		return errors.Join(err, k.clean(ctx))
	})
}

// about says to a person what a machine is.
func about(m unikernel.Machine) string {
	text := fmt.Sprintf("%s, %d MiB, %d CPUs, %d disks, %d interfaces", m.Type, m.MemoryMiB, m.VCPUs, len(m.Disks), len(m.NICs))
	if m.LUNs {
		text += ", pod"
	}
	return text
}

// clean removes all that a maker has on the host; nothing need be there.
func (k Maker) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	return errors.Join(
		k.Machines.Destroy(ctx, name),
		k.Networks.Remove(key, k.netns()),
		k.Networks.Drop(k.netns()),
		os.RemoveAll(k.Dir),
	)
}

func (k Maker) netns() string { return filepath.Join(k.Dir, "netns") }

// write writes the state of a machine that has booted and is parked.
func (k Maker) write(ctx context.Context, m unikernel.Machine, f *os.File) error {
	m, err := k.prepare(m)
	if err != nil {
		return err
	}
	err = k.boot(ctx, m, func(session unikernel.Session) error {
		parker, ok := session.(unikernel.Parker)
		if !ok {
			return fmt.Errorf("%w: the guest cannot be parked", unikernel.ErrNotImplemented)
		}
		return parker.Park(ctx)
	})
	if err != nil {
		return err
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := k.Machines.Save(ctx, name, f); err != nil {
		return err
	}
	if err := k.Machines.Destroy(ctx, name); err != nil {
		return err
	}
	m.Saved = f.Name()
	if err := k.boot(ctx, m, func(unikernel.Session) error { return nil }); err != nil {
		return fmt.Errorf("try it: %w", err)
	}
	return nil
}

// prepare makes what the machine needs on the host.
func (k Maker) prepare(m unikernel.Machine) (unikernel.Machine, error) {
	if err := os.MkdirAll(k.Dir, 0o711); err != nil { // QEMU need not be root
		return m, err
	}
	m = m.Neutral(k.Dir)
	m.Name, m.Title = name, "a template is being made"
	for _, d := range m.Disks {
		if err := os.WriteFile(d.Path, nil, 0o600); err != nil {
			return m, err
		}
		if err := os.Truncate(d.Path, diskSize); err != nil {
			return m, err
		}
	}
	if len(m.NICs) == 0 {
		return m, nil
	}
	m.NetNS = k.netns()
	if err := k.Networks.New(m.NetNS); err != nil {
		return m, err
	}
	where := ""
	if k.Machines.InNetNS() {
		where = m.NetNS
	}
	var n unikernel.Network
	for i, nic := range m.NICs {
		n.Interfaces = append(n.Interfaces, unikernel.Interface{Name: fmt.Sprintf("eth%d", i), MAC: nic.MAC, MTU: 1500})
	}
	var err error
	m.NICs, err = k.Networks.Tap(key, where, n, max(m.NICs[0].Queues, 1))
	return m, err
}

// boot makes a machine, lets it run, calls do with its guest's session, and closes
// that.
func (k Maker) boot(ctx context.Context, m unikernel.Machine, do func(unikernel.Session) error) error {
	ctx, cancel := context.WithTimeout(ctx, k.BootTimeout)
	defer cancel()
	if _, err := k.Machines.Create(ctx, m); err != nil {
		return err
	}
	if err := k.Machines.Resume(ctx, name); err != nil {
		return err
	}
	conn, err := console.Dial(ctx, m.Channels[0].Socket)
	if err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	session, err := k.Guest.Attach(ctx, conn)
	if err != nil {
		return err
	}
	return errors.Join(do(session), session.Close())
}
