package unikernel

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Errors a guest returns, told apart with errors.Is.
var (
	// ErrNotImplemented: the guest cannot do what was asked. The text says why
	// and what to use instead.
	ErrNotImplemented = errors.New("not implemented")
	// ErrInvalid: the specification, an annotation or a resource is wrong.
	ErrInvalid = errors.New("invalid argument")
	// ErrNotFound: a process or the program it names does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable: the guest did not answer or is gone.
	ErrUnavailable = errors.New("guest unavailable")
)

// Boot is what boots in a machine, before the host gave it a name and places.
type Boot struct {
	// Machine is the machine type, see Machine.Type.
	Machine        string
	Kernel, Initrd string
	Cmdline        []string
	// Private says that Cmdline holds what others on the host must not read, see
	// Machine.Private.
	Private bool
	Resources
	Board
	// Queues is how many queues each network interface has; 0 is one.
	Queues int
	// Control is the name of the guest's control channel; empty for a guest
	// without one, see Alone.
	Control string
	// Parks says that the guest's session is a Parker.
	Parks bool
	// ShareTag is the tag under which the guest mounts the Share that holds
	// App.Shares; empty when the guest wants none.
	ShareTag string
}

// Alone says that the guest starts its program by itself as soon as the machine
// runs, and says what it says on the console. It may have ended before anybody
// looks.
func (b Boot) Alone() bool { return b.Control == "" }

// Plan is what must boot for an App, and the disks that go with it.
type Plan struct {
	Boot
	// Disks are what the container brings, in the order in which the guest sees
	// them.
	Disks []DiskRequest
	// Image is what boots out of the container's image, in place of Kernel and
	// Initrd; nil for a guest whose kernel is the host's.
	Image *ImageBoot
	// Without lists what the container asks for and does without, because the
	// guest has no such thing and the program may not notice. It is for the log.
	Without []string
	// Volumes says that the guest's session is a VolumeKeeper: what App.Volumes shows
	// need not be shared.
	Volumes bool
	// OneProcess says that a program which starts another fails, and that this
	// is not known before: advice is worth looking for when one has failed.
	OneProcess bool
}

// DiskKind says what a disk is to hold.
type DiskKind int

// What a guest can ask for.
const (
	// DiskRoot holds the files of the root, read-only, as EROFS.
	DiskRoot DiskKind = iota + 1
	// DiskWritable is an empty layer for what the container writes.
	DiskWritable
	// DiskBoot boots and holds the files of the root, see BootDisk, under a layer
	// for the configuration and for what the guest writes. Before it come the
	// volumes of the configuration.
	DiskBoot
	// DiskImage is the file ImageBoot.Disk, under a layer for what the guest
	// writes unless it is read-only.
	DiskImage
	// DiskDevice is a block device of the host, see DiskRequest.Device.
	DiskDevice
)

// DiskRequest is one disk that a guest asks for.
type DiskRequest struct {
	Kind DiskKind
	// Serial is how the guest finds it, see Disk.Serial.
	Serial string
	// ReadOnly is for DiskImage and DiskDevice.
	ReadOnly bool
	// Device is for DiskDevice: which of the host's it is, and where the container is
	// to find it.
	Device specs.LinuxDevice
	// Boot is for DiskBoot.
	Boot BootDisk
}

// Prepared is what a guest must find when it boots. One that is told
// everything over its control channel needs nothing of it.
type Prepared struct {
	// Cmdline are words for the kernel, after those of the Plan.
	Cmdline []string
	// Boot is the configuration in the layer of a DiskBoot.
	Boot *BootConfig
	// Without is like that of a Plan, about what only the network tells.
	Without []string
}

// Serials by which the guest finds its disks.
const (
	SerialRoot     = "root"     // the image, read-only
	SerialWritable = "writable" // the container's own layer
)

// Guest is one kind of unikernel. Its methods but Connect are pure: host facts
// come in at construction.
type Guest interface {
	// Name is the value of the configuration key and annotation "guest".
	Name() string
	// Capacity is how many containers one of its machines can hold at once.
	Capacity() int
	// Plan says what must boot. It returns ErrInvalid for a specification that
	// is wrong and ErrNotImplemented for one this guest cannot honour.
	Plan(App, Resources) (Plan, error)
	// Prepare completes the plan when the App's network is known. Errors are
	// those of Plan.
	Prepare(App) (Prepared, error)
	// Connect returns the session of a machine that was let run. It returns when
	// the guest is ready for its configuration, the context ends, or the guest
	// cannot be reached (ErrUnavailable).
	Connect(context.Context, Booted) (Session, error)
}

// PodGuest is a Guest that holds several containers at once in a machine that was
// planned for them: its session is a PodSession.
type PodGuest interface {
	Guest
	// Pod plans the machine of a pod. app is the pod's own container, of which the
	// process does not run: only what Configure takes in matters, and namespaces. The
	// share of the containers, if there is one, has Boot.ShareTag. Errors are those of
	// Plan, which is for each of the containers.
	Pod(app App, r Resources) (Boot, error)
}

// Booted is a machine that was let run, as its guest sees it.
type Booted interface {
	Watched
	// Control connects to the control channel, as soon as it is there.
	Control(context.Context) (io.ReadWriteCloser, error)
}

// Session is a booted guest that runs one container. See PodSession for one that
// holds several.
type Session interface {
	// OnOOM has f called whenever the guest's kernel killed processes of the
	// container for want of memory. It is called before Run, once. A call of f
	// ends before Exited is closed for any of the processes, and must not wait. A
	// guest that is a Watcher has no way to tell.
	OnOOM(f func())
	// Run configures the machine for the App and starts its process, once. A
	// program that is missing is ErrNotFound, one that cannot be executed
	// ErrInvalid; the error's text is the one runc users know.
	Run(context.Context, App, Stdio) (Process, error)
	// Exec starts a further process beside the first.
	Exec(ctx context.Context, id string, p *specs.Process, io Stdio) (Process, error)
	// Shutdown tells the guest that its exit is recorded and it may power off. It
	// returns when all that the container wrote is on the machine's disks.
	Shutdown(context.Context) error
	// Close ends the session. Processes that had not exited fail with
	// ErrUnavailable.
	Close() error
}

// PodSession is a Session whose guest holds several containers at once. With the
// three methods here in place of Run, what the others of Session do concerns no
// container, but for Shutdown and Close, which concern all of them.
type PodSession interface {
	Session
	// Configure sets up what all containers share, once, before the first of them:
	// names, network and kernel parameters of app, which is the pod's own
	// container, and the clock. shareTag is Boot.ShareTag of the machine.
	Configure(ctx context.Context, app App, shareTag string) error
	// Container makes a container of the App without starting anything. Its disks
	// are on the machine, or come in the next seconds; they are told by Kind and
	// Serial, which no other container's have. Limits of memory and processors hold
	// for its own processes. One that was made after ctx ended is removed again.
	Container(ctx context.Context, app App, disks []DiskRequest) (ContainerSession, error)
}

// ContainerSession is a container of a PodSession. It is over when its first process
// has exited; nothing else in the machine is.
type ContainerSession interface {
	// OnOOM is as in Session, for processes of this container.
	OnOOM(f func())
	// Run starts the first process, once, with the errors of Session.Run.
	Run(context.Context, Stdio) (Process, error)
	// Exec starts a further process beside the first.
	Exec(ctx context.Context, id string, p *specs.Process, io Stdio) (Process, error)
	// Remove ends what runs in the container and returns when its file systems are
	// unmounted and complete, so that its disks can be detached. It can be repeated
	// after an error; of one that is removed it is ErrNotFound.
	Remove(context.Context) error
	Accountant
	Spacious
}

// Parker is a Session whose machine can be a template, from whose state other
// machines go on.
type Parker interface {
	// Park, in place of Run or Configure, has the guest let go of all that is the
	// machine's own, its disks and network interfaces too. The session is then closed.
	// In the machine, and in each that goes on from its state, Guest.Connect returns a
	// session as if it had just booted; its random numbers are its own.
	Park(context.Context) error
}

// Timekeeper is a Session that sets its guest's clock. Run, or Configure,
// has set it.
type Timekeeper interface {
	// SetClock lets the guest's clock show the host's time again, after the
	// machine stood still. It is never set back.
	SetClock(context.Context) error
}

// Spacious is a Session whose guest can be told how much the host has for what the
// container writes, before Run and after it: the container cannot write more. In
// bytes, free is what the host's disk has free, held what the container's own disk
// occupies there.
type Spacious interface {
	Space(ctx context.Context, free, held int64) error
}

// Conn is one end of a connection whose two directions end one by one, such as a
// *net.TCPConn.
type Conn interface {
	io.ReadWriter
	// CloseWrite lets the other side read end-of-file.
	CloseWrite() error
}

// Forwarder is a Session whose guest takes connections of the host to servers in the
// machine.
type Forwarder interface {
	// Forward connects to the TCP server at an address of the guest's own, and then
	// carries between it and the client until both directions have ended. Where nobody
	// listens at a loopback address it tries the other family's. An error means that
	// the connection was not made, or broke off: what was read of it may not be all.
	// It is ErrNotFound when nobody listens, and ErrUnavailable when the guest does
	// not answer or has as many connections as it may.
	//
	// It ends when ctx does. The caller then closes the client, which ends what may
	// still read from it and write to it.
	Forward(ctx context.Context, to netip.AddrPort, client Conn) error
}

// Process is a process in a guest.
type Process interface {
	// Signal delivers sig; with all, to every process of the container. A
	// process that has exited is ErrNotFound.
	Signal(ctx context.Context, sig syscall.Signal, all bool) error
	// Resize sets the terminal's size in characters.
	Resize(ctx context.Context, width, height uint16) error
	// CloseStdin lets the process read end-of-file after what Stdin gave so far.
	CloseStdin(context.Context) error
	// Exited is closed when the process exited or the session ended. It never
	// waits for a reader of the output.
	Exited() <-chan struct{}
	// Exit returns how it ended, once Exited is closed: ErrUnavailable when
	// the session broke first.
	Exit() (Exit, error)
	// Drained is closed when everything the process wrote has been given to
	// the writers of its Stdio.
	Drained() <-chan struct{}
}

// Exit is the exit of a process.
type Exit struct {
	// Status is 0–255, or 128 plus the number of the signal that ended it.
	Status uint32
	At     time.Time
}
