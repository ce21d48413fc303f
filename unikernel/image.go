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

// ImageBoot is a kernel that a container's image carries. What it is is known
// only when it has been copied.
type ImageBoot struct {
	ImageFiles
	// Complete says what follows from the kernel: the machine's type and board. A
	// file that no machine boots is ErrInvalid.
	Complete func(kernel io.ReaderAt) (machine string, board Board, err error)
}
