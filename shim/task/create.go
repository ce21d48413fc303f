package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/rootfs"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/anypb"
)

// CreateRequest is what containerd says of a new container.
type CreateRequest struct {
	ID, Bundle string
	Rootfs     []*types.Mount
	IO         stdio.Config
	// Checkpoint is what to restore from; empty for a fresh container.
	Checkpoint string
	Options    *anypb.Any
}

// creation is a container on its way to exist.
type creation struct {
	*Container
	host   Host
	mounts []*types.Mount // of fs
	fs     unikernel.Rootfs
	// target is where fs is mounted if it must be.
	target string
	undo   undo
	// found is the network, part of app when all is prepared.
	found unikernel.Network
}

// create makes a container whose machine exists and is paused. When it fails,
// nothing is left of it.
func create(ctx context.Context, host Host, sent Events, namespace string, r CreateRequest) (_ *Container, err error) {
	cr := &creation{host: host, mounts: r.Rootfs, Container: &Container{
		bundle: r.Bundle, io: r.IO, events: sent,
		booted: make(chan boot, 1), exited: make(chan struct{}),
		drain: make(chan struct{}), released: make(chan struct{}), execs: map[string]*execProcess{},
	}}
	if err := cr.read(namespace, r); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			cr.undo.run(ctx)
		}
	}()
	if err := cr.directories(ctx); err != nil {
		return nil, err
	}
	if err := cr.rootFiles(r.Rootfs); err != nil {
		return nil, err
	}
	if err := cr.prepare(ctx); err != nil {
		return nil, err
	}
	if rootfs.Hidden(r.Rootfs) { // a finished disk is not opened, which would end the mount
		if err := rootfs.Unmount(cr.target); err != nil {
			return nil, err
		}
	}
	if err := cr.machine(ctx); err != nil {
		return nil, err
	}
	cr.events.Send(&events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: uint32(cr.pid()),
		IO: &events.TaskIO{Stdin: r.IO.Stdin, Stdout: r.IO.Stdout, Stderr: r.IO.Stderr, Terminal: r.IO.Terminal},
	})
	go cr.watch()
	go cr.watchOccupant()
	return cr.Container, nil
}

// read takes in all that was asked for, and refuses what cannot be; it changes
// nothing on the host.
func (cr *creation) read(namespace string, r CreateRequest) error {
	if r.Checkpoint != "" {
		return fmt.Errorf("%w: containers cannot be restored from a checkpoint", unikernel.ErrNotImplemented)
	}
	if err := RecordOptions(r.Bundle, r.Options); err != nil {
		return err
	}
	spec, err := readSpec(r.Bundle)
	if err != nil {
		return err
	}
	cfg, err := LoadConfig(r.Bundle)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if cr.cfg, err = cfg.Annotate(spec.Annotations); err != nil {
		return err
	}
	cr.names = NewNames(cr.cfg.Storage, namespace, r.ID)
	if cr.size, err = resources(spec, cr.cfg.Machine); err != nil {
		return err
	}
	cr.app = unikernel.App{Namespace: namespace, ID: r.ID, Spec: spec}
	if cr.app.Shares, err = share.Plan(spec.Mounts); err != nil {
		return err
	}
	cr.networks = cr.host.Networks(cr.cfg)
	if cr.netns, err = networkNamespace(spec); err != nil {
		return err
	}
	if cr.ownNetns = cr.netns == ""; cr.ownNetns {
		cr.netns = cr.names.netns()
	}
	rootPath := ""
	if spec.Root != nil && len(r.Rootfs) == 0 {
		rootPath = spec.Root.Path
	}
	cr.target = rootfs.Path(r.Bundle, rootPath)
	if rootfs.Hidden(r.Rootfs) {
		return nil // see rootFiles
	}
	if cr.fs, err = rootfs.New(r.Rootfs, cr.target); err != nil {
		return err
	}
	return cr.finished()
}

// finished takes over what a finished disk decides.
func (cr *creation) finished() (err error) {
	cr.rootFormat = "raw"
	if cr.fs.Disk == nil {
		return nil
	}
	cr.rootFormat = cr.fs.Disk.Format
	cr.cfg, err = cr.cfg.ForGuest(cr.fs.Disk.Guest)
	return err
}

// rootFiles mounts the root file system if its files cannot be seen otherwise:
// what it holds decides what boots.
func (cr *creation) rootFiles(mounts []*types.Mount) (err error) {
	if !rootfs.Hidden(mounts) {
		return nil
	}
	cr.undo.add("unmount root file system", func(context.Context) error { return rootfs.Unmount(cr.target) })
	if cr.fs, err = rootfs.Mount(mounts, cr.target); err != nil {
		return err
	}
	return cr.finished()
}

// directories makes the container's directories, after whatever an earlier
// container of the same name may have left.
func (cr *creation) directories(ctx context.Context) error {
	disks, err := cr.host.Disks(cr.cfg)
	if err != nil {
		return err
	}
	if cr.names.Exists() {
		machines, err := cr.host.Machines(ctx, cr.cfg)
		if err != nil {
			return err
		}
		log.G(ctx).WithField(fieldContainer, cr.names.ID).Warn("cleaning up what is left of an earlier container of this name")
		if err := machines.Destroy(ctx, cr.names.Domain()); err != nil {
			return err
		}
		if err := Cleanup(ctx, cr.names, cr.netns, cr.bundle, cr.networks, disks); err != nil {
			return err
		}
	}
	for _, dir := range []string{cr.names.State, cr.names.Data} {
		// QEMU need not be root: it may pass through, and see nothing.
		if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
			return err
		}
		cr.undo.add("remove "+dir, func(context.Context) error { return removeTree(dir) })
		if err := os.Mkdir(dir, 0o711); err != nil {
			return err
		}
	}
	if cr.unclaim, err = disks.Claim(cr.names.Data, cr.bundle); err != nil {
		return err
	}
	cr.undo.add("unclaim", func(context.Context) error { cr.unclaim(); return nil })
	return nil
}

// prepare makes everything the machine needs, all at the same time.
func (cr *creation) prepare(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return cr.plans(ctx) })
	group.Go(func() error { return cr.network(ctx) })
	group.Go(cr.cgroup)
	group.Go(func() (err error) {
		cr.streams, err = stdio.Open(ctx, cr.names.Namespace, cr.names.ID, cr.io)
		if err == nil {
			cr.undo.add("close streams", func(context.Context) error { return cr.streams.Close() })
		}
		return err
	})
	err := group.Wait()
	cr.app.Network = cr.found
	return err
}

// plans connects to libvirt, learns what has to boot, and makes the disks.
func (cr *creation) plans(ctx context.Context) error {
	began := time.Now()
	var err error
	if cr.machines, err = cr.host.Machines(ctx, cr.cfg); err != nil {
		return err
	}
	cr.took("libvirt", began)
	if cr.guest, err = cr.host.Guest(cr.cfg, cr.machines); err != nil {
		return err
	}
	if cr.plan, err = cr.guest.Plan(cr.app, cr.size); err != nil {
		return err
	}
	cr.doesWithout(cr.plan.Without)
	return cr.makeDisks(ctx)
}

// makeDisks makes what the guest asked for.
func (cr *creation) makeDisks(ctx context.Context) error {
	defer cr.took("disks", time.Now())
	// Whoever dies while the root file system is mounted leaves it mounted.
	cr.undo.add("unmount root file system", func(context.Context) error { return rootfs.Unmount(rootfs.Path(cr.bundle, "")) })
	maker, err := cr.host.Disks(cr.cfg)
	if err != nil {
		return err
	}
	cr.disks = &diskSet{
		maker: maker, names: cr.names, requests: cr.plan.Disks, fs: cr.fs, format: cr.rootFormat, size: cr.cfg.Rootfs.WritableSize,
	}
	cr.undo.add("unlock layer", func(context.Context) error { cr.disks.release(); return nil })
	if !cr.disks.keepLayer() && cr.fs.Disk != nil {
		if err := rootfs.Untouched(cr.mounts); err != nil {
			return err
		}
	}
	if err := cr.disks.image(ctx, &cr.plan); err != nil {
		return err
	}
	if err := cr.disks.make(ctx); err != nil {
		return err
	}
	return cr.checkProgram()
}

func (cr *creation) shares() error {
	if len(cr.app.Shares) == 0 || cr.plan.ShareTag == "" {
		return nil
	}
	cr.undo.add("unmount shares", func(context.Context) error { return share.Unmount(cr.names.share()) })
	return share.Mount(cr.names.share(), cr.app.Shares)
}

func (cr *creation) cgroup() error {
	asked := ""
	if cr.app.Spec.Linux != nil {
		asked = cr.app.Spec.Linux.CgroupsPath
	}
	path, err := cgroup.Path(asked, cr.names.Namespace, cr.names.ID)
	if err != nil {
		return err
	}
	cr.undo.add("remove cgroup", func(ctx context.Context) error { return removeCgroup(ctx, cr.names.cgroupRecord()) })
	cr.group, err = newCgroup(cr.names.cgroupRecord(), path, cgroup.Limits{
		MemoryBytes: int64(cr.size.MemoryMiB+cr.cfg.Machine.OverheadMiB) * mib,
		CPU:         cpuLimits(cr.app.Spec),
	})
	return err
}

// newCgroup is replaced by tests, which have no cgroups.
var newCgroup = cgroup.Create

// machine makes the virtual machine and puts it where it belongs.
func (cr *creation) machine(ctx context.Context) error {
	// After the hooks, which may write what is shared: the container's hosts.
	if err := cr.shares(); err != nil {
		return err
	}
	if err := cr.configure(ctx, cr.app); err != nil {
		return err
	}
	cr.undo.add("remove taps", func(context.Context) error { return cr.networks.Remove(cr.names.Key, cr.netns) })
	nics, err := cr.taps(cr.app.Network)
	if err != nil {
		return err
	}
	// Before Create: it may fail, or we may die, when half of it is done.
	cr.undo.add("destroy machine", func(ctx context.Context) error { return cr.machines.Destroy(ctx, cr.names.Domain()) })
	began := time.Now()
	pids, err := cr.machines.Create(ctx, cr.document(nics))
	if err != nil {
		return fmt.Errorf("create machine: %w", err)
	}
	cr.took("machine", began)
	cr.vm = holdProcess(pids.VM)
	cr.undo.add("release process", func(context.Context) error { cr.vm.close(); return nil })
	if err := cr.settle(pids, cr.app.Network); err != nil {
		return err
	}
	cr.console = cr.attachConsole()
	cr.undo.add("close console", func(context.Context) error { cr.console.Close(); return nil })
	return ctx.Err() // nobody waits for a container whose client is gone
}

// document describes the machine.
func (c *Container) document(nics []unikernel.NIC) unikernel.Machine {
	m := unikernel.Machine{
		Name: c.names.Domain(), Title: c.names.Namespace + "/" + c.names.ID, Type: c.plan.Machine,
		Resources: c.plan.Resources, Board: c.plan.Board, Kernel: c.plan.Kernel, Initrd: c.plan.Initrd,
		Cmdline:   slices.Concat(c.plan.Cmdline, c.prepared.Cmdline),
		OwnKernel: c.plan.Image != nil,
		Disks:     c.disks.list(),
		NICs:      nics,
		Console:   c.names.console(),
		NetNS:     c.netns,
	}
	if c.plan.Control != "" {
		m.Channels = []unikernel.Channel{{Name: c.plan.Control, Socket: c.names.control()}}
	}
	if len(c.app.Shares) > 0 && c.plan.ShareTag != "" {
		m.Share = &unikernel.Share{Source: c.names.share(), Tag: c.plan.ShareTag}
	}
	return m
}

// Prewarm connects to what a bundle's configuration asks for, so that the
// creation that follows need not wait for it. Errors show there.
func Prewarm(ctx context.Context, host Host, bundle string) {
	cfg, err := LoadConfig(bundle)
	if err == nil {
		_, err = host.Machines(ctx, cfg)
	}
	if err != nil {
		log.G(ctx).WithError(err).Debug("libvirt is not ready yet")
	}
}
