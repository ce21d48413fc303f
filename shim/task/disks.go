package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"
)

// diskSet are the disks of one container: those its guest asked for, in order.
type diskSet struct {
	maker    Disks
	names    Names
	requests []unikernel.DiskRequest
	fs       unikernel.Rootfs
	// format is that of the disk which holds the files of the root.
	format string
	// size is how many bytes can be written to a layer.
	size int64
	// layer is where what the container writes is kept, nil if it is not; unlock
	// gives it back.
	layer  *unikernel.Layer
	unlock func()
	// volumes are those of the configuration that is in force.
	volumes []unikernel.Disk
}

// keepLayer decides whether what the container writes is kept with its snapshot:
// its layer is then apart from the root.
func (d *diskSet) keepLayer() bool {
	if !d.writes() || d.fs.Layer == nil || !d.maker.CanKeep(*d.fs.Layer, d.names.Data) {
		return false
	}
	d.layer, d.fs = d.fs.Layer, *d.fs.Below
	return true
}

// writes says whether there is a disk for what the container writes.
func (d *diskSet) writes() bool {
	return slices.ContainsFunc(d.requests, func(r unikernel.DiskRequest) bool { return r.Kind == unikernel.DiskWritable })
}

// save puts what the container wrote where others see it. Its machine is gone.
func (d *diskSet) save(ctx context.Context) error {
	if d.layer == nil {
		_, err := merge(ctx, d.names, d.maker)
		return err
	}
	if err := d.maker.Save(ctx, *d.layer); err != nil {
		return err
	}
	// Only the shim's end waits for it, and what it does is right whenever it is done.
	settling.Go(func() {
		if err := d.maker.Settle(*d.layer); err != nil && !errors.Is(err, fs.ErrNotExist) { // with its snapshot
			log.L.WithError(err).Warn("a layer was saved; it may be lost if the host crashes now, or what it replaced still takes room")
		}
	})
	return nil
}

// settling is what goes on in the process after containers have ended.
var settling sync.WaitGroup

// Settled waits, not longer than that, until what stopped containers wrote is on the
// host's disk and what it replaced is removed.
func Settled(patience time.Duration) { within(patience, settling.Wait) }

// makerOrNil is the maker of disks; a container without disks has none.
func (d *diskSet) makerOrNil() Disks {
	if d == nil {
		return nil
	}
	return d.maker
}

// release lets others use the layer.
func (d *diskSet) release() {
	if d != nil && d.unlock != nil {
		d.unlock()
	}
}

// writable makes the disk for what the container writes.
func (d *diskSet) writable(ctx context.Context) (err error) {
	if d.layer == nil {
		return d.maker.Writable(ctx, d.names.writable(), d.size)
	}
	d.unlock, err = d.maker.Layer(ctx, *d.layer, d.names.writable(), d.size)
	return err
}

// make makes all that does not depend on the network, at the same time.
func (d *diskSet) make(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, r := range d.requests {
		group.Go(func() error {
			if r.Kind == unikernel.DiskDevice {
				return makeNode(d.names.device(i), r.Device)
			}
			return d.makeOne(ctx, r)
		})
	}
	return group.Wait()
}

func (d *diskSet) makeOne(ctx context.Context, r unikernel.DiskRequest) error {
	switch r.Kind {
	case unikernel.DiskRoot:
		if err := d.maker.Root(ctx, d.fs, d.names.root()); err != nil {
			return fmt.Errorf("root disk: %w", err)
		}
	case unikernel.DiskBoot:
		if err := d.maker.BootDisk(ctx, d.fs, r.Boot, d.names.bootDisk()); err != nil {
			return fmt.Errorf("root disk: %w", err)
		}
	case unikernel.DiskWritable:
		if err := d.writable(ctx); err != nil {
			return fmt.Errorf("writable disk: %w", err)
		}
	case unikernel.DiskImage:
		if !r.ReadOnly {
			return d.maker.DiskLayer(d.names.imageDisk(), d.names.imageLayer())
		}
	default:
		return fmt.Errorf("%w: a disk of kind %d", unikernel.ErrNotImplemented, r.Kind)
	}
	return nil
}

// configure makes the layers that hold a configuration, in place of earlier
// ones. It is called when hooks have run and the network is known.
func (d *diskSet) configure(ctx context.Context, boot *unikernel.BootConfig) (err error) {
	if boot == nil {
		return nil
	}
	if err := os.Remove(d.names.bootLayer()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	base := unikernel.Disk{Path: d.names.bootDisk(), Format: d.format}
	d.volumes, err = d.maker.Configure(ctx, base, d.names.bootLayer(), d.size, *boot)
	return err
}

// list are the disks of the machine.
func (d *diskSet) list() []unikernel.Disk {
	var all []unikernel.Disk
	for i, r := range d.requests {
		switch r.Kind {
		case unikernel.DiskDevice:
			all = append(all, unikernel.Disk{Path: d.names.device(i), Block: true, Format: "raw", Serial: r.Serial, ReadOnly: r.ReadOnly})
		case unikernel.DiskRoot:
			all = append(all, unikernel.Disk{Path: d.names.root(), Format: d.format, Serial: r.Serial, ReadOnly: true})
		case unikernel.DiskWritable:
			all = append(all, unikernel.Disk{Path: d.names.writable(), Format: "raw", Serial: r.Serial})
		case unikernel.DiskBoot:
			// The root last: its kernel starts the program when the root is there,
			// and should have met the others by then.
			all = append(all, d.volumes...)
			all = append(all, unikernel.Disk{Path: d.names.bootLayer(), Format: "qcow2", Serial: r.Serial, Ephemeral: true})
		case unikernel.DiskImage:
			disk := unikernel.Disk{Path: d.names.imageLayer(), Format: "qcow2", Serial: r.Serial, Ephemeral: true}
			if r.ReadOnly {
				disk = unikernel.Disk{Path: d.names.imageDisk(), Format: "raw", Serial: r.Serial, ReadOnly: true}
			}
			all = append(all, disk)
		}
	}
	return all
}

// root returns the disk with the files of the image. A machine that boots
// files of its image may have none.
func (d *diskSet) root() (root unikernel.Disk, ok bool) {
	for _, r := range d.requests {
		switch r.Kind {
		case unikernel.DiskRoot:
			return unikernel.Disk{Path: d.names.root(), Format: d.format}, true
		case unikernel.DiskBoot:
			return unikernel.Disk{Path: d.names.bootDisk(), Format: d.format}, true
		}
	}
	return unikernel.Disk{}, false
}

// layered says whether the container may have files that are not on the root's disk:
// its layer has some.
func (d *diskSet) layered() bool {
	if d.layer == nil {
		return false
	}
	upper, err := os.Open(d.layer.Upper)
	if err != nil {
		return true
	}
	defer upper.Close()
	_, err = upper.Readdirnames(1)
	return !errors.Is(err, io.EOF)
}

// missing says that a program is certainly not on the root's disk. Of a disk
// that boots that cannot be said.
func (d *diskSet) missing(args, env []string, cwd string) bool {
	for _, r := range d.requests {
		if r.Kind == unikernel.DiskRoot {
			return d.maker.Missing(unikernel.Disk{Path: d.names.root(), Format: d.format}, args, env, cwd)
		}
	}
	return false
}

// record returns what the guest left for its host, if it leaves something.
func (d *diskSet) record() ([]byte, error) {
	for _, r := range d.requests {
		if r.Kind == unikernel.DiskBoot {
			return d.maker.Record(d.names.bootLayer())
		}
	}
	return nil, nil
}

// image copies what boots out of the container's image, and completes the plan
// by it. It returns the guest that knows the kernel.
func (d *diskSet) image(ctx context.Context, plan *unikernel.Plan) (_ unikernel.Guest, without []string, err error) {
	have := unikernel.ImageFiles{Kernel: d.names.kernel(), Initrd: d.names.initrd(), Disk: d.names.imageDisk()}
	if err := d.maker.ImageFiles(ctx, d.fs, plan.Image.ImageFiles, have); err != nil {
		return nil, nil, err
	}
	boots := have.Kernel
	if plan.Image.Kernel == "" {
		boots = have.Disk
	}
	file, err := os.Open(boots)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	kernel, err := plan.Image.Complete(file, info.Size(), d.names.ownKernel())
	if err != nil {
		return nil, nil, err
	}
	plan.Machine, plan.Board = kernel.Machine, kernel.Board
	if plan.Image.Kernel != "" {
		plan.Kernel = have.Kernel
	}
	if kernel.Patch != nil {
		plan.Kernel = d.names.ownKernel()
		if err := patched(plan.Kernel, file, *kernel.Patch); err != nil {
			return nil, nil, fmt.Errorf("the machine's copy of the kernel: %w", err)
		}
	}
	if plan.Image.Initrd != "" {
		plan.Initrd = have.Initrd
	}
	return kernel.Guest, kernel.Without, nil
}

// patched writes a changed copy of a file: the file itself may be that of others, too.
func patched(path string, src io.Reader, p unikernel.Patch) error {
	dst, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(dst, src, p.Keep)
	if err == nil {
		err = dst.Truncate(p.Size)
	}
	for _, e := range p.Edits {
		if err == nil {
			_, err = dst.WriteAt(e.Data, e.At)
		}
	}
	return errors.Join(err, dst.Close())
}
