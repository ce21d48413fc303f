package task

import (
	"context"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"

	"google.golang.org/protobuf/proto"
)

// Machines runs virtual machines, each known by its name alone.
type Machines interface {
	// Create makes the machine's processes, with its CPUs paused. When it
	// fails it leaves nothing.
	Create(context.Context, unikernel.Machine) (unikernel.Pids, error)
	// Resume lets the CPUs run, Pause stops them.
	Resume(ctx context.Context, name string) error
	Pause(ctx context.Context, name string) error
	// Destroy ends the machine and removes all that is known of it. An absent
	// machine is not an error.
	Destroy(ctx context.Context, name string) error
	// Wait returns when the machine ended, and how.
	Wait(ctx context.Context, name string) (unikernel.End, error)
	// PowerButton presses a machine's.
	PowerButton(ctx context.Context, name string) error
	// InNetNS says that a machine's processes start in its Machine.NetNS, so
	// that its taps have to be made there.
	InNetNS() bool
}

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
	// Settle waits until that has reached the host's disk.
	Save(ctx context.Context, l unikernel.Layer) error
	Settle(l unikernel.Layer) error
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

// Networks makes network namespaces and joins machines to them.
type Networks interface {
	// New makes a namespace and keeps it at path; Drop undoes that. Nothing
	// need be there to drop.
	New(path string) error
	Drop(path string) error
	// Occupy starts a process in the namespace at path that does nothing, has
	// nothing else of the host, and shows a title to who lists processes. It ends at
	// the call of end, or with ours.
	Occupy(path, title string) (pid int, end func(), err error)
	// Look says what a machine takes over from the namespace at path.
	Look(path string) (unikernel.Network, error)
	// Tap makes the taps of the machine named by key, each with that many
	// queues. With an empty path they are in the host's namespace.
	Tap(key, path string, n unikernel.Network, queues int) ([]unikernel.NIC, error)
	// Join moves the taps of a paused machine into the namespace at path,
	// unless they are there, and links them to its interfaces.
	Join(key, path string, n unikernel.Network) error
	// Remove takes away what Tap and Join made, from key and path alone.
	// Nothing need be there.
	Remove(key, path string) error
}

// Host gives the parts of the runtime that a configuration asks for. Its
// methods may be called concurrently, and are quick when called again.
type Host interface {
	Machines(context.Context, config.Config) (Machines, error)
	Disks(config.Config) (Disks, error)
	// Guest gets the machines, because what boots depends on their CPUs.
	Guest(config.Config, Machines) (unikernel.Guest, error)
	Networks(config.Config) Networks
}

// Events takes what happens to containers, in order. Send never blocks.
type Events interface {
	Send(proto.Message)
}
