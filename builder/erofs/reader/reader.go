package reader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	blockSize   = 4096
	blockBits   = 12
	superOffset = 1024
	superMagic  = 0xE0F5E1E2
	slotSize    = 32

	compatChecksum = 1
)

// ErrFormat is for an image that is no EROFS file system, is damaged, or has
// features that this package does not know.
var ErrFormat = errors.New("not a readable EROFS file system")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// FS is an open file system.
type FS struct {
	// Inodes is their number, Blocks that of 4096 bytes, as the superblock
	// says.
	Inodes uint64
	Blocks uint32
	// UUID and Volume name the file system.
	UUID, Volume string

	r         io.ReaderAt
	size      int64 // of the file system, in bytes
	root      uint64
	meta      int64 // offset of node id 0
	buildTime int64
	buildNsec uint32
}

// Is says whether r has the magic number of the format.
func Is(r io.ReaderAt) bool {
	var b [4]byte
	_, err := r.ReadAt(b[:], superOffset)
	return err == nil && binary.LittleEndian.Uint32(b[:]) == superMagic
}

// Open reads the superblock of the file system at the start of r, which has
// size bytes and may go on behind it.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	sb := make([]byte, blockSize-superOffset)
	if _, err := r.ReadAt(sb, superOffset); err != nil {
		return nil, broken("superblock: %v", err)
	}
	le := binary.LittleEndian
	if le.Uint32(sb) != superMagic {
		return nil, broken("magic number %#x", le.Uint32(sb))
	}
	if sb[12] != blockBits || sb[13] != 0 || le.Uint32(sb[80:]) != 0 {
		return nil, broken("blocks of 1<<%d bytes, features %#x", sb[12], le.Uint32(sb[80:]))
	}
	fs := &FS{
		r: r, root: uint64(le.Uint16(sb[14:])), Inodes: le.Uint64(sb[16:]), Blocks: le.Uint32(sb[36:]),
		buildTime: int64(le.Uint64(sb[24:])), buildNsec: le.Uint32(sb[32:]), meta: int64(le.Uint32(sb[40:])) * blockSize,
		UUID: hex.EncodeToString(sb[48:64]), Volume: string(bytes.TrimRight(sb[64:80], "\x00")),
	}
	if fs.size = int64(fs.Blocks) * blockSize; fs.size > size {
		return nil, broken("%d bytes of %d", size, fs.size)
	}
	if le.Uint32(sb[8:])&compatChecksum != 0 {
		want := le.Uint32(sb[4:])
		clear(sb[4:8])
		if got := ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli)); got != want {
			return nil, broken("checksum %#x, computed %#x", want, got)
		}
	}
	return fs, nil
}

// Size is the file system's size in bytes.
func (fs *FS) Size() int64 { return fs.size }

// inode is one on disk.
type inode struct {
	mode     uint16
	size     int64
	union    uint32 // first block, or a device's number
	uid, gid uint32
	mtime    int64
	nsec     uint32
	nlink    uint32
	xattrAt  int64
	xattrLen int64
	whole    int64 // bytes of data in blocks
	inlineAt int64
}

// Data layouts, from bit 1 of the inode's format on.
const (
	layoutPlain  = 0
	layoutInline = 2
)

// inode reads the inode of a node id.
func (fs *FS) inode(nid uint64) (inode, error) {
	if nid >= uint64(fs.size)/slotSize {
		return inode{}, broken("node id %d", nid)
	}
	at := fs.meta + int64(nid)*slotSize
	b := make([]byte, 64)
	if at > fs.size-slotSize {
		return inode{}, broken("node id %d", nid)
	}
	if at > fs.size-64 {
		b = b[:slotSize]
	}
	if err := fs.read(b, at); err != nil {
		return inode{}, err
	}
	le := binary.LittleEndian
	format := le.Uint16(b)
	var n inode
	length := int64(slotSize)
	switch {
	case format&^0xf != 0:
		return inode{}, broken("node id %d has format %#x", nid, format)
	case format&1 == 0:
		n = inode{
			nlink: uint32(le.Uint16(b[6:])), size: int64(le.Uint32(b[8:])),
			uid: uint32(le.Uint16(b[24:])), gid: uint32(le.Uint16(b[26:])), mtime: fs.buildTime, nsec: fs.buildNsec,
		}
	case len(b) < 64:
		return inode{}, broken("node id %d is cut off", nid)
	default:
		length = 64
		n = inode{
			nlink: le.Uint32(b[44:]), size: int64(le.Uint64(b[8:])), uid: le.Uint32(b[24:]), gid: le.Uint32(b[28:]),
			mtime: int64(le.Uint64(b[32:])), nsec: le.Uint32(b[40:]),
		}
	}
	n.mode, n.union = le.Uint16(b[4:]), le.Uint32(b[16:])
	if count := int64(le.Uint16(b[2:])); count > 0 {
		n.xattrAt, n.xattrLen = at+length, 12+(count-1)*4
		length += n.xattrLen
	}
	return n, fs.place(&n, format>>1, at+length)
}

// place says where the data of a node is; end is where its inode does.
func (fs *FS) place(n *inode, layout uint16, end int64) error {
	if n.size < 0 || n.size > 1<<50 {
		return broken("a file of %d bytes", n.size)
	}
	n.whole = n.size
	switch layout {
	case layoutPlain:
	case layoutInline:
		n.whole = n.size / blockSize * blockSize
		n.inlineAt = end
		if tail := n.size - n.whole; end > fs.size-tail || tail > 0 && end/blockSize != (end+tail-1)/blockSize {
			return broken("%d bytes of inline data at %d", tail, end)
		}
	default:
		return broken("data layout %d", layout)
	}
	hasData := n.mode&typeMask == typeFile || n.mode&typeMask == typeDir || n.mode&typeMask == typeLink
	if hasData && n.whole > 0 && int64(n.union)*blockSize > fs.size-n.whole {
		return broken("%d bytes of data at block %d", n.whole, n.union)
	}
	return nil
}

// read fills b from an offset of the file system.
func (fs *FS) read(b []byte, at int64) error {
	if at < 0 || at > fs.size-int64(len(b)) {
		return broken("%d bytes at %d", len(b), at)
	}
	if n, err := fs.r.ReadAt(b, at); n < len(b) {
		if errors.Is(err, io.EOF) {
			return broken("it ends at %d", at+int64(n))
		}
		return err
	}
	return nil
}

// content reads the data of a node.
type content struct {
	fs *FS
	n  inode
}

// ReadAt implements io.ReaderAt.
func (c content) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, broken("offset %d", off)
	}
	if off < c.n.whole {
		part := p[:min(int64(len(p)), c.n.whole-off)]
		if err := c.fs.read(part, int64(c.n.union)*blockSize+off); err != nil {
			return 0, err
		}
		n, off, p = len(part), off+int64(len(part)), p[len(part):]
	}
	if len(p) > 0 && off < c.n.size {
		part := p[:min(int64(len(p)), c.n.size-off)]
		if err := c.fs.read(part, c.n.inlineAt+off-c.n.whole); err != nil {
			return n, err
		}
		n, p = n+len(part), p[len(part):]
	}
	if len(p) > 0 {
		return n, io.EOF
	}
	return n, nil
}

// Close implements tree.Content.
func (content) Close() error { return nil }
