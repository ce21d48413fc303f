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
	// Directories are made where the image lacks them.
	Directories []string
	// Volumes are mounted over the root.
	Volumes []Volume
	// Without is like that of a Plan, see Prepared.
	Without []string
}

// Option is one order for the kernel. A Name with a dot, "en1.mtu", is one of
// the group before it.
type Option struct{ Name, Value string }

// MaxBootFiles is how many bytes all Files of a BootConfig can have together.
const MaxBootFiles = 1 << 20

// BootFile is a small regular file of the host that the guest gets a copy of.
type BootFile struct{ Path, Source string }

// Volume is a part of the guest's file system on a disk of its own, which is
// made before the guest boots.
type Volume struct {
	// Path is where it is mounted; what is missing of it is made.
	Path string
	// Source is the directory or the regular file of the host that it is a copy
	// of. An empty one makes an empty directory.
	Source string
	// Recursive says that what is mounted below Source is part of it.
	Recursive bool
	// ReadOnly volumes cannot be written to. Others take what the guest writes,
	// which is discarded with the container.
	ReadOnly bool
	// Size is about how many bytes can be written; 0 is as many as to the root.
	Size int64
	// MaxSource is how many bytes Source may have.
	MaxSource int64
	// Spare is for an empty volume where an empty directory of the root does as
	// well: it has a disk only where the image has files.
	Spare bool
}

// Watched is a machine as a guest without a control channel sees it.
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
