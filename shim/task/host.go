package task

import (
	"context"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// Disks makes the disks of machines.
type Disks interface {
	// Root makes the read-only disk dst hold the files of fs. It is raw, or has
	// the format of fs.Disk; that holds for BootDisk, too.
	Root(ctx context.Context, fs unikernel.Rootfs, dst string) error
	// Writable makes dst an empty writable layer, a raw disk.
	Writable(ctx context.Context, dst string, bytes int64) error
	// CanKeep says whether Layer can make disks in dir for a layer.
	CanKeep(l unikernel.Layer, dir string) bool
	// Layer is Writable for a layer that is kept as long as its snapshot. Nobody
	// else gets it until unlock is called.
	Layer(ctx context.Context, l unikernel.Layer, dst string, bytes int64) (unlock func(), err error)
	// Save makes the layer's directory equal to its disk, which no machine uses.
	// Settle waits until that has reached the host's disk, and what it replaced is gone.
	Save(ctx context.Context, l unikernel.Layer) error
	Settle(l unikernel.Layer) error
	// Merge does to the root file system at dir what is on the disk of a layer,
	// which no machine uses.
	Merge(ctx context.Context, disk, dir string) error
	// Pin says that a container's directory is not abandoned while all of paths
	// are there.
	Pin(dir string, paths []string) error
	// Claim says that dir, a container's directory, is this process's, and then
	// as good as abandoned once the bundle is gone. Recover saves the layer of
	// the container of that directory, if there is one that nobody has.
	Claim(dir, bundle string) (release func(), err error)
	Recover(ctx context.Context, dir string) error
	// Sweep frees what abandoned containers hold.
	Sweep(context.Context) error
	// BootDisk makes dst a read-only disk that boots and holds the files of fs.
	BootDisk(ctx context.Context, fs unikernel.Rootfs, d unikernel.BootDisk, dst string) error
	// Configure makes dst a layer over a boot disk base, of which Path and
	// Format matter, with a configuration and room for what the guest writes,
	// and beside it the disks of the configuration's volumes, in place of earlier
	// ones. dst must not exist.
	Configure(ctx context.Context, base unikernel.Disk, dst string, bytes int64, c unikernel.BootConfig) ([]unikernel.Disk, error)
	// ImageFiles copies the files of fs that in names to those that out names.
	ImageFiles(ctx context.Context, fs unikernel.Rootfs, in, out unikernel.ImageFiles) error
	// DiskLayer makes dst a layer over base, a raw disk beside it, for what the
	// guest writes. dst must not exist.
	DiskLayer(base, dst string) error
	// Advise says in one sentence what keeps a program from running on a guest
	// with a disk that Root or BootDisk made, or may do so, and what to do;
	// nothing if that cannot be told.
	Advise(guest string, root unikernel.Disk, args, env []string, cwd string) string
	// Missing says that a program is certainly not on a disk that Root made.
	Missing(root unikernel.Disk, args, env []string, cwd string) bool
	// Record returns what the guest left in such a layer for its host.
	Record(layer string) ([]byte, error)
}

// Host gives the parts of the runtime that a configuration asks for. Its
// methods may be called concurrently, and are quick when called again.
type Host interface {
	sandbox.Host
	Disks(config.Config) (Disks, error)
	// Declared returns the configuration for an image whose files, or the
	// specification's annotations, say of themselves what boots.
	Declared(cfg config.Config, spec *specs.Spec, fs unikernel.Rootfs) (config.Config, error)
	// Guest is told whether the processor is emulated: what boots depends on it.
	Guest(cfg config.Config, emulated bool) (unikernel.Guest, error)
}

// Events takes what happens to containers, in order. Send never blocks.
type Events interface {
	Send(proto.Message)
}
