package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/unikernel"
)

// attachTimeout bounds Attach and Detach, each of which takes some milliseconds.
const attachTimeout = 20 * time.Second

// Attach gives a machine that runs or is paused a disk at a unit of its
// controller, and QEMU's user the access to its file that Create gives. A machine
// that is not there, or not this driver's, and a missing file are
// unikernel.ErrNotFound; a disk or unit that cannot be, or a file that is closed to
// QEMU's user, is unikernel.ErrInvalid. It takes attachTimeout at most. A disk that
// nobody waits for any more is taken away again as soon as libvirt answers.
func (d *Driver) Attach(ctx context.Context, name string, disk unikernel.Disk, unit int) error {
	return d.plug(ctx, name, "attach disk %s to", disk, unit, func(ctx context.Context, dom *lv.Domain, text string) error {
		lent, err := d.lend(name, disk)
		if err == nil {
			err = d.view(name, disk, confine.Reveal)
		}
		if err == nil {
			err = dom.AttachDeviceFlags(text, lv.DOMAIN_DEVICE_MODIFY_LIVE)
		}
		if err == nil && ctx.Err() != nil {
			err = errors.Join(ctx.Err(), unplug(dom, text))
		}
		conceal := confine.Conceal
		if err == nil {
			conceal = concealReads
		}
		back := errors.Join(d.closeReads(name), d.view(name, disk, conceal))
		if err != nil && lent {
			back = errors.Join(back, d.takeBack(name, disk))
		}
		if back != nil {
			d.log("after disk %s of machine %s: %v", disk.Serial, name, back)
		}
		return err
	})
}

// Detach takes a disk from a unit of a machine that runs or is paused. When it
// returns without an error QEMU has closed the file, which is root's again if it
// was written. A disk that is not there is not an error; a machine that is not is
// unikernel.ErrNotFound, and has no files. The guest is not asked: it must not use
// the disk any more. Detach takes attachTimeout at most and can be repeated.
func (d *Driver) Detach(ctx context.Context, name string, disk unikernel.Disk, unit int) error {
	return d.plug(ctx, name, "detach disk %s from", disk, unit, func(_ context.Context, dom *lv.Domain, text string) error {
		if err := unplug(dom, text); err != nil {
			return err
		}
		return errors.Join(d.view(name, disk, confine.Conceal), d.takeBack(name, disk))
	})
}

// plug runs f with the disk's document, alone among those who give disks to the
// machine or take them: what libvirt does late then hits no later disk.
func (d *Driver) plug(ctx context.Context, name, what string, disk unikernel.Disk, unit int, f func(context.Context, *lv.Domain, string) error) error {
	what = fmt.Sprintf(what, disk.Serial)
	doc, err := lun(disk, unit)
	if err != nil {
		return fmt.Errorf("%s machine %s: %w", what, name, err)
	}
	text, err := doc.Marshal()
	if err != nil {
		return err
	}
	d.mu.Lock()
	machine := d.domains[name]
	d.mu.Unlock()
	if machine == nil || machine.over() {
		return fmt.Errorf("%s machine %s: %w: it does not run", what, name, unikernel.ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	return d.each(ctx, name, what, func(dom *lv.Domain) error {
		select {
		case machine.plugging <- struct{}{}:
			defer func() { <-machine.plugging }()
		case <-ctx.Done():
		}
		if ctx.Err() != nil { // nobody waits any more
			return ctx.Err()
		}
		return f(ctx, dom, text)
	})
}

// unplugTries bounds how often libvirt is asked to take a disk away. It waits 5 s
// for QEMU (QEMU_UNPLUG_REMOVAL_WAIT_TIME), and returns without an error in any case.
const unplugTries = 5

// unplug takes a disk away and returns when QEMU has closed its file: libvirt says
// that there is no such disk when it has done all that belongs to the removal.
func unplug(dom *lv.Domain, text string) error {
	for range unplugTries {
		err := dom.DetachDeviceFlags(text, lv.DOMAIN_DEVICE_MODIFY_LIVE)
		if code(err) == lv.ERR_DEVICE_MISSING {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: QEMU does not let go of it", unikernel.ErrUnavailable)
}

// lend opens a disk's file to the machine's user, as grant does, until closeReads if
// it is read. It says whether the file, one that is written, was written down as that
// user's, with an error too: takeBack undoes it.
func (d *Driver) lend(machine string, disk unikernel.Disk) (added bool, err error) {
	if !d.apart {
		return false, grantDisk(disk, d.account)
	}
	err = withIdentity(d.identities, d.target.owner(machine), func(id *lease) error {
		add := !disk.ReadOnly && !slices.Contains(id.Files, disk.Path)
		if add {
			id.Files = append(id.Files, disk.Path)
		}
		if d.account.lists {
			id.Reads = readsOf(disk)
		}
		if add || len(id.Reads) > 0 {
			if err := id.rewrite(); err != nil { // before the file is its user's
				return err
			}
			added = add
		}
		return grantDisk(disk, own(d.account, id.uid))
	})
	return added, err
}

// concealReads takes from a QEMU what it has open for good.
func concealReads(pid int, files []confine.File) error {
	return confine.Conceal(pid, slices.DeleteFunc(files, func(f confine.File) bool { return !f.ReadOnly }))
}

// view reveals a disk's files to the machine's QEMU, or conceals them.
func (d *Driver) view(machine string, disk unikernel.Disk, f func(pid int, files []confine.File) error) error {
	files, err := filesOf(disk)
	if errors.Is(err, fs.ErrNotExist) {
		files, err = []confine.File{{Path: disk.Path}}, nil
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	dom := d.domains[machine]
	d.mu.Unlock()
	if dom == nil || dom.vm == nil || dom.over() {
		return nil // nobody has a view
	}
	if err := f(dom.vm.pid, files); err != nil && !dom.over() {
		return fmt.Errorf("the view of QEMU: %w", err)
	}
	return nil
}

// takeBack gives root a file that was lent. That of a machine without a user was
// given back with it.
func (d *Driver) takeBack(machine string, disk unikernel.Disk) error {
	if !d.apart || disk.ReadOnly {
		return nil
	}
	err := withIdentity(d.identities, d.target.owner(machine), func(id *lease) error {
		if err := takeBack(disk.Path, id.uid); err != nil {
			return err
		}
		id.Files = slices.DeleteFunc(id.Files, func(path string) bool { return path == disk.Path })
		return id.rewrite()
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
