package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFormat says that a disk does not hold a file system that can be read.
var ErrFormat = errors.New("not a file system of a layer")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

const (
	blockSize = 4096
	// superOffset and superSize are where the superblock is, in bytes.
	superOffset, superSize = 1024, 1024
	superMagic             = 0xef53
	// RootInode is the number of the top directory.
	RootInode = 2

	incompatFiletype = 0x2
	incompatRecover  = 0x4 // the journal has to be replayed
	incompatExtents  = 0x40
	incompatFlexBG   = 0x200
	knownIncompat    = incompatFiletype | incompatRecover | incompatExtents | incompatFlexBG
	compatJournal    = 0x4
)

// FS is an open file system. It may be used by one goroutine at a time.
type FS struct {
	disk   io.ReaderAt
	blocks uint64 // that the disk has
	// inodes is their number, perGroup how many each group has, and inodeSize
	// how many bytes one takes.
	inodes, perGroup uint32
	inodeSize        int64
	tables           []uint64 // first block of each group's inodes
	// replay has blocks whose contents are elsewhere, in the journal.
	replay map[uint64]replayed
}

var le = binary.LittleEndian

// Open reads what is known of the whole file system on a disk of size bytes.
func Open(disk io.ReaderAt, size int64) (*FS, error) {
	fs := &FS{disk: disk, blocks: uint64(max(size, 0)) / blockSize}
	sb := make([]byte, superSize)
	if _, err := disk.ReadAt(sb, superOffset); err != nil {
		return nil, readError(err)
	}
	if err := fs.super(sb); err != nil {
		return nil, err
	}
	if le.Uint32(sb[0x60:])&incompatRecover != 0 {
		if le.Uint32(sb[0x5c:])&compatJournal == 0 {
			return nil, bad("a journal that is to be replayed and not there")
		}
		// The journal's own inode is never in the journal.
		if err := fs.groups(sb); err != nil {
			return nil, err
		}
		if err := fs.loadJournal(le.Uint32(sb[0xe0:])); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	return fs, fs.groups(sb)
}

func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return bad("the disk ends early")
	}
	return err
}

// super checks the superblock.
func (fs *FS) super(sb []byte) error {
	switch incompat := le.Uint32(sb[0x60:]); {
	case le.Uint16(sb[0x38:]) != superMagic:
		return bad("no superblock")
	case le.Uint32(sb[0x18:]) != 2: // log2 of the block size in KiB
		return bad("its blocks do not have %d bytes", blockSize)
	case incompat&^knownIncompat != 0 || incompat&incompatExtents == 0 || incompat&incompatFiletype == 0:
		return bad("features %#x, known are %#x", incompat, knownIncompat)
	case uint64(le.Uint32(sb[0x4:])) > fs.blocks:
		return bad("%d blocks on a disk of %d", le.Uint32(sb[0x4:]), fs.blocks)
	}
	fs.inodes, fs.perGroup = le.Uint32(sb[0x0:]), le.Uint32(sb[0x28:])
	fs.inodeSize = int64(le.Uint16(sb[0x58:]))
	if fs.inodeSize != 256 {
		return bad("inodes of %d bytes", fs.inodeSize)
	}
	if fs.perGroup == 0 || fs.perGroup > 8*blockSize {
		return bad("%d inodes in a group", fs.perGroup)
	}
	return nil
}

// groups reads where the inodes are.
func (fs *FS) groups(sb []byte) error {
	const descriptor = 32 // bytes, without the feature 64bit
	perGroup := uint64(le.Uint32(sb[0x20:]))
	if perGroup != 8*blockSize {
		return bad("%d blocks in a group", perGroup)
	}
	n := (uint64(le.Uint32(sb[0x4:])) + perGroup - 1) / perGroup
	if n*uint64(fs.perGroup) < uint64(fs.inodes) {
		return bad("%d inodes in %d groups of %d", fs.inodes, n, fs.perGroup)
	}
	fs.tables = fs.tables[:0]
	buf := make([]byte, blockSize)
	for at := uint64(0); at < n; at++ {
		in := at * descriptor % blockSize
		if in == 0 {
			if err := fs.block(1+at*descriptor/blockSize, buf); err != nil {
				return err
			}
		}
		fs.tables = append(fs.tables, uint64(le.Uint32(buf[in+8:])))
	}
	return nil
}

// block reads one block.
func (fs *FS) block(n uint64, buf []byte) error {
	if n == 0 || n >= fs.blocks {
		return bad("block %d of %d", n, fs.blocks)
	}
	if r, ok := fs.replay[n]; ok {
		if _, err := fs.disk.ReadAt(buf[:blockSize], int64(r.block)*blockSize); err != nil {
			return readError(err)
		}
		if r.escaped {
			binary.BigEndian.PutUint32(buf, journalMagic)
		}
		return nil
	}
	_, err := fs.disk.ReadAt(buf[:blockSize], int64(n)*blockSize)
	return readErrorOrNil(err)
}

func readErrorOrNil(err error) error {
	if err != nil {
		return readError(err)
	}
	return nil
}

// Replayed says that the journal was played back: the file system was not unmounted.
func (fs *FS) Replayed() bool { return fs.replay != nil }
