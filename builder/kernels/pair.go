package kernels

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/nanos"
)

// Build is what a boot image and a kernel say of themselves.
type Build struct {
	// Commit is the source revision of the kernel, empty if it does not say.
	Commit string
	// TFS5 says that the kernel is known to read version 5 of its file system,
	// which is what package tfs writes. Releases do since 0.1.47.
	TFS5 bool
}

// Limits of the two files, in bytes. The kernel must fit into the partition
// that its boot loader looks into.
const (
	maxKernel  = 12 << 20
	sectorSize = 512
)

// tfs4Warning is in kernels that read version 5 of the file system: what they say
// when they meet version 4 (src/fs/tlog.c:689).
const tfs4Warning = "old version of TFS found (4)"

// Examine looks at boot.img and kernel.img in a directory. A missing one is
// unikernel.ErrNotFound, one that cannot be what its name says
// unikernel.ErrInvalid. That both come from one build is in neither of them; the
// machines of this runtime start with the kernel and never run the boot image.
func Examine(dir string) (Build, error) {
	// The kernel first: it is what tells a release for another architecture.
	kernel, err := readFile(filepath.Join(dir, nanos.KernelImage), maxKernel)
	if err != nil {
		return Build{}, err
	}
	image, err := openPVH(bytes.NewReader(kernel))
	if err != nil {
		return Build{}, fmt.Errorf("%s: %w", nanos.KernelImage, err)
	}
	boot, err := readFile(filepath.Join(dir, nanos.BootImage), tfs.LogOffset)
	if err != nil {
		return Build{}, err
	}
	if err := checkBoot(boot); err != nil {
		return Build{}, fmt.Errorf("%s: %w", nanos.BootImage, err)
	}
	return Build{Commit: commit(image), TFS5: bytes.Contains(kernel, []byte(tfs4Warning))}, nil
}

// checkBoot wants a boot sector and the sectors it loads.
func checkBoot(boot []byte) error {
	switch {
	case len(boot) < 2*sectorSize || len(boot)%sectorSize != 0:
		return invalid("it has %d bytes, not a number of sectors", len(boot))
	case boot[sectorSize-2] != 0x55 || boot[sectorSize-1] != 0xaa:
		return invalid("it does not begin with a boot sector")
	}
	return nil
}

// readFile reads a regular file of at most max bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > most {
		return nil, invalid("%s: a file of at most %d bytes is wanted", path, most)
	}
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
