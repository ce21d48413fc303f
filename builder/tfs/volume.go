package tfs

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// Volume is a file system alone on a disk, without partitions and boot loader.
// A kernel mounts it on a directory of its root that the root's attribute
// "mounts" names, by label, UUID or the place of the disk (volume_match of
// Nanos' src/kernel/storage.c).
type Volume struct {
	// Label has at most 31 bytes.
	Label string
	UUID  [16]byte
	// Size is the disk's in bytes, a multiple of 512: what the files leave
	// free, the guest can write. 0 is as large as the files need.
	Size int64
}

// Write writes the volume with the files of a tree to f, under the rules of
// Disk.Write, but that everything below /dev, /proc and /sys is stored. Files
// that do not fit in Size are ENOSPC.
func (v Volume) Write(ctx context.Context, f *os.File, root *tree.Node) error {
	h := head{v.Label, v.UUID}
	if err := h.check(); err != nil {
		return err
	}
	if v.Size < 0 || v.Size%sectorSize != 0 {
		return fmt.Errorf("a volume of %d bytes: want a multiple of %d: %w", v.Size, sectorSize, ErrFormat)
	}
	nodes, err := collect(ctx, root, false)
	if err != nil {
		return err
	}
	size, err := newWriter(ctx, f, 0).tree(root, nodes, h, nil)
	if err != nil {
		return err
	}
	if v.Size > 0 && size > v.Size {
		return fmt.Errorf("the files need %d bytes, the volume has %d: %w", size, v.Size, unix.ENOSPC)
	}
	return f.Truncate(max(size, v.Size))
}
