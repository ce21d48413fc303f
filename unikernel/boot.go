package unikernel

import (
	"context"
	"io"
)

// BootDisk is a root disk from which a machine boots, and which holds the
// container's configuration in a layer of its own. It is TFS, see package
// builder/tfs.
type BootDisk struct {
	// Boot and Kernel are files of the host: a boot loader's image and a
	// kernel, of one build.
	Boot, Kernel string
}

// BootConfig is what the layer of a container over its BootDisk says.
type BootConfig struct {
	// Args and Env are the program's, Cwd the absolute path where it starts.
	// Args[0] is looked up as by execvp(3), with the PATH of Env.
	Args, Env []string
	Cwd       string
	// Options are orders for the kernel.
	Options []Option
	// Files are put in place of what the image has at their paths.
	Files []BootFile
}

// Option is one order for the kernel. A Name with a dot, "en1.mtu", is one of
// the group before it.
type Option struct{ Name, Value string }

// BootFile is a small regular file of the host that the guest gets a copy of.
type BootFile struct{ Path, Source string }

// Watched is a machine whose guest has no control channel, as a Watcher sees it.
type Watched interface {
	// Console reads what the guest writes to its console, up to the end of the
	// machine. It is read by one reader, all of it.
	Console() io.ReadCloser
	// PowerButton presses the machine's.
	PowerButton(context.Context) error
	// Ended waits for the end of the machine.
	Ended(context.Context) (End, error)
	// Record returns what the guest left on its BootDisk for its host, after
	// the machine ended. A guest without one has none.
	Record() ([]byte, error)
}

// Watcher is a Guest without a control channel: its Plan has no Control.
type Watcher interface {
	Guest
	// Watch is called in place of Attach, when the machine runs.
	Watch(Watched) Session
}

// Configurer is a Watcher that boots from its root: its Plan has a Disk.
type Configurer interface {
	Watcher
	// Configure returns what the container's layer must hold. Errors are those
	// of Plan.
	Configure(App) (BootConfig, error)
}
