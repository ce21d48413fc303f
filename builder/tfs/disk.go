package tfs

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"containerd-shim-uni/builder/tree"
)

// Layout of a disk, in bytes.
const (
	bootPartition = 1 << 20
	bootSize      = 12 << 20 // what the kernel's own tools make (BOOTFS_SIZE)
	rootPartition = bootPartition + bootSize
	// MaxKernel is the most bytes that a kernel can have.
	MaxKernel = bootSize
	// RootOffset is where the root file system begins.
	RootOffset = rootPartition
	// LogOffset is where the area of LogSize begins: just before the first
	// partition.
	LogOffset = bootPartition - LogSize

	tableOffset   = 446 // of the partition table in sector 0
	entrySize     = 16
	partitionType = 0x83
	// maxRoot is the largest root partition: its number of sectors has 32 bits.
	maxRoot = (1<<32 - 1) * sectorSize
)

// ErrFormat is what errors about the bytes of a disk or a file wrap.
var ErrFormat = errors.New("not as it should be")

// Disk is what a bootable disk consists of beside the files of its root.
type Disk struct {
	// Boot is the boot loader's image (boot.img), Kernel the kernel's
	// (kernel.img), of one and the same build.
	Boot, Kernel []byte
	// Label is the root file system's, at most 31 bytes.
	Label string
	// Settings are orders for the kernel. A Config replaces those of the same
	// name.
	Settings Settings
	// Free is about how many bytes more the guest can write if it boots this
	// very disk. A layer over it has room of its own.
	Free int64
}

// Write writes a disk with the files of a tree to f, which must be an empty
// regular file. It does not sync. Memory grows with the number of files, not
// with what is in them. What is left in f after an error is of no use. Errors
// wrap ErrFormat for a boot image or kernel that cannot be one, and the file
// systems' own, such as ENOSPC; ENOTDIR is a root that is no directory.
func (d Disk) Write(ctx context.Context, f *os.File, root *tree.Node) error {
	h := head{d.Label, defaultUUID}
	if err := cmp.Or(d.check(), h.check()); err != nil {
		return err
	}
	nodes, err := collect(ctx, root, true)
	if err != nil {
		return err
	}
	w := newWriter(ctx, f, rootPartition)
	size, err := w.tree(root, nodes, h, d.Settings)
	if err != nil {
		return err
	}
	if d.Free < 0 || d.Free > maxRoot || size > maxRoot-d.Free {
		return fmt.Errorf("the root file system has %d bytes and %d free, at most %d are possible: %w", size, d.Free, int64(maxRoot), ErrFormat)
	}
	if err := d.writeKernel(f); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	boot := append([]byte(nil), d.Boot...)
	putPartition(boot, 0, true, bootPartition, bootSize)
	putPartition(boot, 1, false, rootPartition, size)
	if _, err := f.WriteAt(boot, 0); err != nil {
		return err
	}
	return f.Truncate(rootPartition + size + roundUp(d.Free, pageSize))
}

// WriteDir writes a disk with the tree below a directory of the host. Nothing
// may change it meanwhile.
func (d Disk) WriteDir(ctx context.Context, f *os.File, dir string) error {
	root, err := tree.Scan(ctx, dir)
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	return d.Write(ctx, f, root)
}

func (d Disk) check() error {
	switch {
	case len(d.Boot) < sectorSize || binary.LittleEndian.Uint16(d.Boot[sectorSize-2:]) != 0xaa55:
		return fmt.Errorf("the boot image has no boot sector: %w", ErrFormat)
	case len(d.Boot) > LogOffset:
		return fmt.Errorf("the boot image has %d bytes, %d are possible: %w", len(d.Boot), LogOffset, ErrFormat)
	case len(d.Kernel) < 4 || string(d.Kernel[:4]) != "\x7fELF":
		return fmt.Errorf("the kernel is no ELF file: %w", ErrFormat)
	}
	return nil
}

// writeKernel writes the file system with the one file "kernel".
func (d Disk) writeKernel(out io.WriterAt) error {
	at := int64(firstData * sectorSize)
	logAt := roundUp(at+int64(len(d.Kernel)), pageSize)
	if logAt+extensionSize > bootSize {
		return fmt.Errorf("%d bytes are too many for a partition of %d: %w", len(d.Kernel), bootSize, ErrFormat)
	}
	if _, err := out.WriteAt(d.Kernel, bootPartition+at); err != nil {
		return err
	}
	enc := newEncoder()
	enc.tuple(1)
	enc.symbol(attrChildren)
	enc.tuple(1)
	enc.symbol("kernel")
	sectors := uint64(roundUp(int64(len(d.Kernel)), sectorSize) / sectorSize)
	enc.fileTuple(int64(len(d.Kernel)), []extent{{0, firstData, sectors}}, 0)

	log := newLogWriter(out, bootPartition, uint64(logAt/sectorSize))
	if err := log.record(enc.b); err != nil {
		return err
	}
	if err := log.close(); err != nil {
		return err
	}
	return writeHead(out, bootPartition, uint64(logAt/sectorSize), head{uuid: defaultUUID})
}

// putPartition sets an entry of the partition table. Cylinders, heads and
// sectors are those of a disk with 255 heads and 63 sectors, as all tools write
// them.
func putPartition(mbr []byte, i int, active bool, at, size int64) {
	e := mbr[tableOffset+i*entrySize:][:entrySize]
	clear(e)
	if active {
		e[0] = 0x80
	}
	e[4] = partitionType
	copy(e[1:4], chs(at/sectorSize))
	copy(e[5:8], chs((at+size)/sectorSize-1))
	binary.LittleEndian.PutUint32(e[8:], uint32(at/sectorSize))
	binary.LittleEndian.PutUint32(e[12:], uint32(size/sectorSize))
}

func chs(lba int64) []byte {
	cylinder, head, sector := lba/63/255, lba/63%255, lba%63+1
	if cylinder > 1023 {
		cylinder, head, sector = 1023, 254, 63
	}
	return []byte{byte(head), byte(cylinder>>8<<6 | sector), byte(cylinder)}
}

// partition returns where an entry of the partition table says a partition is.
func partition(mbr []byte, i int) (at, size int64) {
	e := mbr[tableOffset+i*entrySize:][:entrySize]
	if e[4] != partitionType {
		return 0, 0
	}
	return int64(binary.LittleEndian.Uint32(e[8:])) * sectorSize, int64(binary.LittleEndian.Uint32(e[12:])) * sectorSize
}
