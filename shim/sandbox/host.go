package sandbox

import (
	"context"
	"net"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// Machines runs virtual machines, each known by its name alone.
type Machines interface {
	// Create makes the machine's processes, with its CPUs paused. When it
	// fails it leaves nothing.
	Create(context.Context, unikernel.Machine) (unikernel.Pids, error)
	// Shape names what a machine has in common with those from whose saved state it
	// could go on, see unikernel.Machine.Saved.
	Shape(unikernel.Machine) (string, error)
	// Resume lets the CPUs run, Pause stops them.
	Resume(ctx context.Context, name string) error
	Pause(ctx context.Context, name string) error
	// Attach gives a machine that runs or is paused a disk at a unit (below
	// unikernel.MaxLUNs) of its controller, see unikernel.Machine.LUNs. When it
	// fails the disk may be there, or still come, until Detach has returned. Errors
	// are unikernel.ErrNotFound for a machine or file that is not there, ErrInvalid
	// for a disk that cannot be.
	Attach(ctx context.Context, name string, d unikernel.Disk, unit int) error
	// Detach takes a disk from a unit and returns when nothing of the machine has
	// its file open; the guest is not asked. An absent disk is not an error, an
	// absent machine is ErrNotFound. It can be repeated.
	Detach(ctx context.Context, name string, d unikernel.Disk, unit int) error
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
	// Emulated says that the processor is emulated because KVM is not used.
	Emulated() bool
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
	// Listen takes the TCP connections made within the namespace at path to any
	// address of its own that nothing there listens at; a connection's local address
	// is the one it was made to.
	Listen(key, path string) ([]net.Listener, error)
	// Remove takes away what Tap, Join and Listen made, from key and path alone.
	// Nothing need be there.
	Remove(key, path string) error
}

// Group is a cgroup of the host.
type Group interface {
	// Add moves processes into it.
	Add(pids ...int) error
	// Update changes the limits of CPU.
	Update(*specs.LinuxCPU) error
	// Stats returns its metrics, in containerd's type.
	Stats() (proto.Message, error)
	// OOMKills is how many of its processes were killed for lack of memory.
	OOMKills() uint64
}

// Templates keeps saved states of machines that have booted. Its methods may be called
// concurrently.
type Templates interface {
	// Find returns the file with the state of a shape; it is fs.ErrNotExist without
	// one.
	Find(shape string) (file string, err error)
	// Verify reads all of it, and is an error if it is damaged.
	Verify(shape string) error
	// Reject takes one away that is no good; another is not made for a while.
	Reject(shape string, why error) error
	// Order has one made of machines like m, by somebody else and some time later, if
	// that is wanted.
	Order(shape string, m unikernel.Machine)
}

// Host gives the parts of the runtime that a configuration asks for. Its
// methods may be called concurrently, and are quick when called again.
type Host interface {
	Machines(context.Context, config.Config) (Machines, error)
	Networks(config.Config) Networks
	// Templates are nil where every machine is to boot.
	Templates(config.Config) Templates
	// Cgroup makes a cgroup with a record by which cgroup.Remove finds it.
	Cgroup(record string, at cgroup.Place, limits cgroup.Limits) (Group, error)
}
