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
	// Complete says what follows from the kernel, a file of size bytes, or where there
	// is none from the disk. The machine has a copy of the kernel at path on the host. A
	// file that no machine boots is ErrInvalid.
	Complete func(kernel io.ReaderAt, size int64, path string) (ImageKernel, error)
}

// ImageKernel is what follows from a kernel that an image carries.
type ImageKernel struct {
	// Guest is the guest that knows the kernel, in place of the one that planned.
	Guest Guest
	// Machine and Board are what it boots on.
	Machine string
	Board   Board
	// Patch is how the machine's own copy differs from the image's file; nil where it
	// does not.
	Patch *Patch
	// Without is like that of a Plan.
	Without []string
}

// Patch changes the copy of a file: the first Keep bytes stay, the rest are zeros up to
// Size bytes, and then edits are written.
type Patch struct {
	Keep, Size int64
	Edits      []Edit
}

// Edit are bytes at an offset of a file.
type Edit struct {
	At   int64
	Data []byte
}
