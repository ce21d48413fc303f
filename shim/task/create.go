package task

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"containerd-shim-uni/shim/hooks"
	"containerd-shim-uni/shim/rootfs"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/share"
	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/shim/volume"
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
	host Host
	pods func(id string) (*pod, error)
	// rootless says that nothing of the container's root is needed.
	rootless bool
	mounts   []*types.Mount // of fs
	fs       unikernel.Rootfs
	// target is where fs is mounted if it must be.
	target string
	undo   undo
}

// create makes a container whose machine exists, and is paused if it is the
// container's. When it fails, nothing is left of it. pods finds those that are there.
func create(ctx context.Context, host Host, sent Events, pods func(string) (*pod, error), namespace string, r CreateRequest) (_ *Container, err error) {
	cr := &creation{host: host, pods: pods, mounts: r.Rootfs, Container: newContainer(sent, r)}
	if err := cr.read(namespace, r); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			cr.undo.run(ctx)
		}
	}()
	if err := cr.place.join(ctx, cr); err != nil {
		return nil, err
	}
	if err := cr.root(ctx); err != nil {
		return nil, err
	}
	if err := cr.prepare(ctx); err != nil {
		return nil, err
	}
	if cr.hidden() { // a finished disk is not opened, which would end the mount
		if err := rootfs.Unmount(cr.target); err != nil {
			return nil, err
		}
	}
	if err := cr.place.build(ctx, cr); err != nil {
		return nil, err
	}
	cr.events.Send(&events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: uint32(cr.standIn.Pid()),
		IO: &events.TaskIO{Stdin: r.IO.Stdin, Stdout: r.IO.Stdout, Stderr: r.IO.Stderr, Terminal: r.IO.Terminal},
	})
	go cr.watch()
	go cr.endWithHost()
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
	runc, err := runcOptions(r.Options)
	if err != nil {
		return err
	}
	if names := unusedOptions(runc); len(names) > 0 {
		log.L.WithField(fieldContainer, namespace+"/"+r.ID).Warnf("runtime options of runc have no meaning here: %s", strings.Join(names, ", "))
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
	pod, err := podOf(spec.Annotations)
	if err != nil {
		return err
	}
	cr.names = NewNames(cr.cfg.Storage, namespace, r.ID, pod)
	cr.app = unikernel.App{Namespace: namespace, ID: r.ID, Spec: spec}
	if cr.place, err = cr.newPlace(pod); err != nil {
		return err
	}
	if err := cr.place.read(cr); err != nil {
		return err
	}
	if spec.Mounts, err = share.Normalize(spec.Mounts); err != nil {
		return err
	}
	if cr.names.Owns() { // else it is the pod's
		if spec.Mounts, err = share.OwnMemory(spec.Mounts); err != nil {
			return err
		}
	}
	if cr.app.Shares, err = share.Plan(spec.Mounts); err != nil {
		return err
	}
	return cr.readRoot()
}

// newPlace returns the place of a container in a pod, or in none.
func (cr *creation) newPlace(id string) (place, error) {
	c := cr.Container
	switch id {
	case "":
		c.volumes = volume.NewSet()
		return alone{founder{c}}, nil
	case c.names.ID:
		return newKeeper(c), nil
	}
	pod, err := cr.pods(id)
	switch {
	case err != nil:
		return nil, err
	case pod.hollow:
		c.volumes = volume.NewSet()
		return newSolo(c, pod), nil
	default:
		return newMember(c, pod), nil
	}
}

// readRoot takes in where the root file system is.
func (cr *creation) readRoot() (err error) {
	if cr.rootless {
		return nil
	}
	rootPath := ""
	if root := cr.app.Spec.Root; root != nil && len(cr.mounts) == 0 {
		rootPath = root.Path
	}
	cr.target = rootfs.Path(cr.bundle, rootPath)
	if cr.hidden() {
		return nil // see rootFiles
	}
	if cr.fs, err = rootfs.New(cr.mounts, cr.target); err != nil {
		return err
	}
	return cr.finished()
}

// hidden says that the files of the root are seen only where it is mounted.
func (cr *creation) hidden() bool { return !cr.rootless && rootfs.Hidden(cr.mounts) }

// root makes the container's directory and mounts its root if it must be.
func (cr *creation) root(ctx context.Context) error {
	if cr.rootless {
		return nil
	}
	if err := cr.directories(ctx); err != nil {
		return err
	}
	return cr.rootFiles()
}

// finished takes over what the image decides: a finished disk, or files that say
// what boots.
func (cr *creation) finished() (err error) {
	cr.rootFormat = "raw"
	if cr.fs.Disk == nil {
		cr.cfg, err = cr.host.Declared(cr.cfg, cr.app.Spec, cr.fs)
		return err
	}
	cr.rootFormat = cr.fs.Disk.Format
	cr.cfg, err = cr.cfg.ForGuest(cr.fs.Disk.Guest)
	return err
}

// rootFiles mounts the root file system if its files cannot be seen otherwise:
// what it holds decides what boots.
func (cr *creation) rootFiles() (err error) {
	if !cr.hidden() {
		return nil
	}
	cr.undo.add("unmount root file system", func(context.Context) error { return rootfs.Unmount(cr.target) })
	if cr.fs, err = rootfs.Mount(cr.mounts, cr.target); err != nil {
		return err
	}
	return cr.finished()
}

// directories makes the container's directory, after whatever an earlier one of the
// same name may have left.
func (cr *creation) directories(ctx context.Context) error {
	disks, err := cr.host.Disks(cr.cfg)
	if err != nil {
		return err
	}
	if err := cr.afterCrash(ctx, disks); err != nil {
		return err
	}
	if err := cleanup(ctx, cr.names, cr.bundle, disks); err != nil {
		return err
	}
	// QEMU need not be root: it may pass through, and see nothing.
	if err := os.MkdirAll(filepath.Dir(cr.names.Data), 0o711); err != nil {
		return err
	}
	cr.undo.add("remove "+cr.names.Data, func(context.Context) error { return sandbox.RemoveTree(cr.names.Data) })
	if err := cr.checkSpace(); err != nil {
		return err
	}
	if err := os.Mkdir(cr.names.Data, 0o711); err != nil {
		return err
	}
	if cr.unclaim, err = disks.Claim(cr.names.Data, cr.bundle); err != nil {
		return err
	}
	cr.undo.add("unclaim", func(context.Context) error { cr.unclaim(); return nil })
	return nil
}

// afterCrash merges what an earlier container of the name wrote before the host
// crashed. The files are then others than were found.
func (cr *creation) afterCrash(ctx context.Context, disks Disks) error {
	merged, err := merge(ctx, cr.names, disks)
	if err != nil {
		return fmt.Errorf("what the container wrote before a crash cannot be merged into its root file system (to start without it, remove %s): %w", cr.names.Data, err)
	}
	if merged && !cr.hidden() {
		cr.fs, err = rootfs.New(cr.mounts, cr.target)
	}
	return err
}

// prepare makes everything the machine needs, all at the same time.
func (cr *creation) prepare(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return cr.plans(ctx) })
	group.Go(func() (err error) {
		cr.standIn, err = cr.place.occupy(ctx, cr.hooks())
		if i := cr.standIn; i != nil {
			cr.undo.add("end its process on the host", func(context.Context) error { i.End(); return nil })
		}
		return err
	})
	group.Go(func() (err error) {
		cr.streams, err = stdio.Open(ctx, cr.names.Namespace, cr.names.ID, cr.io)
		if err == nil {
			cr.undo.add("close streams", func(context.Context) error { return cr.streams.Close() })
		}
		return err
	})
	return group.Wait()
}

// hooks are those of creation; nil for none.
func (cr *creation) hooks() func(context.Context, int) error {
	if cr.app.Spec.Hooks == nil {
		return nil
	}
	return func(ctx context.Context, pid int) error {
		cr.undo.add("run poststop hooks", func(ctx context.Context) error { return hooks.Stopped(ctx, cr.app, cr.bundle) })
		return hooks.Create(ctx, cr.app, cr.bundle, pid)
	}
}

// plans learns what the container needs, and makes the disks.
func (cr *creation) plans(ctx context.Context) error {
	if err := cr.place.plan(ctx, cr); err != nil || cr.rootless {
		return err
	}
	cr.doesWithout(cr.plan.Without)
	if err := cr.takeVolumes(); err != nil {
		return err
	}
	return cr.makeDisks(ctx)
}

// mergeLater sees to what the container writes where its layer is not kept.
func (cr *creation) mergeLater() error {
	switch {
	case cr.fs.Disk != nil:
		if cr.disks.writes() {
			cr.log().Warn("what the container writes is lost when it ends: its image is a disk, and its snapshotter has no directory to keep a layer in")
		}
		return rootfs.Untouched(cr.mounts)
	case !cr.disks.writes() || rootfs.ReadOnly(cr.mounts):
		return nil
	}
	return keepUnmerged(cr.names, cr.disks.maker, unmerged{cr.mounts, cr.target})
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
	if !cr.disks.keepLayer() {
		if err := cr.mergeLater(); err != nil {
			return err
		}
	}
	if cr.plan.Image != nil {
		guest, without, err := cr.disks.image(ctx, &cr.plan)
		if err != nil {
			return err
		}
		cr.guest = guest
		cr.doesWithout(without)
	}
	if err := cr.disks.make(ctx); err != nil {
		return err
	}
	return cr.checkProgram()
}

// warnOfSockets tells what a shared directory has and a guest cannot use.
func (cr *creation) warnOfSockets() {
	for _, s := range cr.app.Shares {
		if sockets := share.Sockets(s); len(sockets) > 0 {
			cr.log().Warnf("who listens on the sockets in %s (%s) cannot be reached from a machine: they are the host's kernel's", s.Mount.Source, strings.Join(sockets, ", "))
		}
	}
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
