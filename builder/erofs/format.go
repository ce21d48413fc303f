package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// The file system's constants.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superMagic  = 0xE0F5E1E2
	superOffset = 1024
	superSize   = 128

	featureCompatChecksum = 0x1
	featureCompatMtime    = 0x2 // inodes hold the modification time

	slotSize  = 32 // a node id counts slots of this size from block 0
	inodeSize = 64 // the extended on-disk inode

	layoutPlain  = 0 // all data in blocks
	layoutInline = 2 // the last partial block follows the inode

	direntSize = 12

	// maxBlocks is what the 32-bit block numbers address: 16 TiB.
	maxBlocks = 1<<32 - 1
)

// volumeUUID is the same in every image: the builder's caller tells images
// apart, and equal trees must be equal bytes. A random (version 4) UUID.
var volumeUUID = [16]byte{0x6f, 0x1d, 0x8c, 0x52, 0x0b, 0x7e, 0x4a, 0x93, 0x9c, 0x35, 0xe1, 0x48, 0xd2, 0x06, 0xaf, 0x7b}

const volumeName = "uni-root"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeSuper puts the superblock into block 0, whose other contents must be
// there already: the checksum covers the block from the superblock on.
func encodeSuper(block []byte, rootNID uint16, inodes uint64, blocks uint32) {
	sb := block[superOffset : superOffset+superSize]
	clear(sb)
	le := binary.LittleEndian
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], featureCompatChecksum|featureCompatMtime)
	sb[12] = blockBits
	le.PutUint16(sb[14:], rootNID)
	le.PutUint64(sb[16:], inodes)
	le.PutUint32(sb[36:], blocks)
	copy(sb[48:64], volumeUUID[:])
	copy(sb[64:80], volumeName)
	// The kernel's crc32c is without the final inversion.
	le.PutUint32(sb[4:], ^crc32.Checksum(block[superOffset:blockSize], castagnoli))
}

// encodeInode appends the 64 bytes of an extended inode.
func encodeInode(b []byte, n *node, ino uint32) []byte {
	le := binary.LittleEndian
	layout, union := uint16(layoutPlain), n.block
	if n.inline > 0 {
		layout = layoutInline
	}
	if n.IsDevice() {
		union = n.rdev()
	}
	xattrCount := uint16(0)
	if len(n.xattrs) > 0 { // the header counts as one unit of 4 bytes
		xattrCount = uint16((len(n.xattrs)-xattrHeaderSize)/4 + 1)
	}
	b = le.AppendUint16(b, 1|layout<<1)
	b = le.AppendUint16(b, xattrCount)
	b = le.AppendUint16(b, uint16(n.Mode))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(n.size))
	b = le.AppendUint32(b, union)
	b = le.AppendUint32(b, ino)
	b = le.AppendUint32(b, n.UID)
	b = le.AppendUint32(b, n.GID)
	b = le.AppendUint64(b, uint64(n.Mtime))
	b = le.AppendUint32(b, n.MtimeNsec)
	b = le.AppendUint32(b, n.nlink)
	return append(b, make([]byte, 16)...)
}

// dirBlocks splits sorted entries into runs that each fill one block.
func dirBlocks(entries []entry) [][]entry {
	var blocks [][]entry
	start, used := 0, 0
	for i, e := range entries {
		need := direntSize + len(e.name)
		if used+need > blockSize {
			blocks = append(blocks, entries[start:i])
			start, used = i, 0
		}
		used += need
	}
	return append(blocks, entries[start:])
}

// dirSize is the i_size of a directory: all blocks but the last count whole.
func dirSize(entries []entry) int64 {
	blocks := dirBlocks(entries)
	last := 0
	for _, e := range blocks[len(blocks)-1] {
		last += direntSize + len(e.name)
	}
	return int64(len(blocks)-1)*blockSize + int64(last)
}

// encodeDir returns a directory's data, dirSize bytes.
func encodeDir(entries []entry) []byte {
	le := binary.LittleEndian
	data := make([]byte, 0, dirSize(entries))
	blocks := dirBlocks(entries)
	for i, block := range blocks {
		nameOff := direntSize * len(block)
		for _, e := range block {
			data = le.AppendUint64(data, e.node.nid)
			data = le.AppendUint16(data, uint16(nameOff))
			data = append(data, e.node.fileType(), 0)
			nameOff += len(e.name)
		}
		for _, e := range block {
			data = append(data, e.name...)
		}
		if i < len(blocks)-1 {
			data = append(data, make([]byte, blockSize-nameOff)...)
		}
	}
	return data
}
