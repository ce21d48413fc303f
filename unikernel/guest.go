package unikernel

import (
	"context"
	"errors"
	"io"
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

// Plan is what must boot for an App, before the host gave it paths.
type Plan struct {
	// Machine is the machine type, see Machine.Type.
	Machine        string
	Kernel, Initrd string
	Cmdline        []string
	Resources
	Board
	// Writable says the root wants a writable layer on a disk of its own.
	Writable bool
	// Disk is what to boot from; nil for a guest that gets its root as a
	// read-only EROFS disk.
	Disk *BootDisk
	// Image is what boots out of the container's image, in place of Kernel and
	// Initrd; nil for a guest whose kernel is the host's.
	Image *ImageFiles
	// Control is the name of the guest's control channel; empty for a guest
	// without one, which is a Watcher.
	Control string
	// Without lists what the container asks for and does without, because the
	// guest has no such thing and the program may not notice. It is for the log.
	Without []string
	// ShareTag is the tag under which the guest mounts the Share that holds
	// App.Shares; empty when the guest wants none.
	ShareTag string
}

// Serials by which the guest finds its disks.
const (
	SerialRoot     = "root"     // the image, read-only
	SerialWritable = "writable" // the container's own layer
)

// Guest is one kind of unikernel. Its methods but Attach are pure: host facts
// come in at construction.
type Guest interface {
	// Name is the value of the configuration key and annotation "guest".
	Name() string
	// Plan says what must boot. It returns ErrInvalid for a specification that
	// is wrong and ErrNotImplemented for one this guest cannot honour.
	Plan(App, Resources) (Plan, error)
	// Attach takes over the host's end of the control channel of a machine
	// that is booting, and returns when the guest is ready for its
	// configuration, the context ends, or conn breaks (ErrUnavailable).
	// It owns conn from then on, also when it fails.
	Attach(ctx context.Context, conn io.ReadWriteCloser) (Session, error)
}

// Session is a booted guest.
type Session interface {
	// Run applies the App's configuration and starts its process, once. A
	// program that is missing is ErrNotFound, one that cannot be executed
	// ErrInvalid; the error's text is the one runc users know.
	Run(context.Context, App, Stdio) (Process, error)
	// Exec starts a further process beside the first.
	Exec(ctx context.Context, id string, p *specs.Process, io Stdio) (Process, error)
	// Shutdown tells the guest that its exit is recorded and it may power off.
	Shutdown(context.Context) error
	// Close ends the session. Processes that had not exited fail with
	// ErrUnavailable.
	Close() error
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
