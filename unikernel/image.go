package unikernel

import "io"

// ImageFiles are the files that a machine boots which are part of its
// container's image. Only Kernel has to be set.
type ImageFiles struct {
	// Kernel, Initrd and Disk are absolute paths: in a Plan in the container's
	// root, elsewhere on the host. The disk's format in the image is its own
	// affair; on the host it is raw.
	Kernel, Initrd, Disk string
}

// Loader is a Watcher that boots files of the container's image: its Plan has
// an Image. What these are is known only when they have been copied.
type Loader interface {
	Watcher
	// Complete fills in what follows from the kernel: the machine's type and
	// board. A file that no machine boots is ErrInvalid.
	Complete(p Plan, kernel io.ReaderAt) (Plan, error)
	// Cmdline returns the kernel's command line for an App whose network is
	// known. Errors are those of Plan.
	Cmdline(App) ([]string, error)
}
