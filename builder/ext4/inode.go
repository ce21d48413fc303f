package ext4

import (
	"time"
)

// Types of files, in Inode.Mode, as in stat(2).
const (
	typeMask = 0xf000
	typeFIFO = 0x1000
	typeChar = 0x2000
	typeDir  = 0x4000
	typeBlk  = 0x6000
	typeReg  = 0x8000
	typeLink = 0xa000
	typeSock = 0xc000
)

const (
	flagExtents = 0x80000
	// maxLink is the longest target of a symbolic link, in bytes (PATH_MAX).
	maxLink = 4096
	// inlineLink is how much of a target fits into an inode.
	inlineLink = 60
)

// Inode is a file.
type Inode struct {
	Number uint32
	// Mode has type and permissions as in stat(2).
	Mode     uint32
	UID, GID uint32
	Links    uint32
	// Size is in bytes.
	Size         int64
	Atime, Mtime time.Time
	// Ctime is when the inode changed, Generation tells it from others that had
	// its number.
	Ctime      time.Time
	Generation uint32
	// Major and Minor are a device's.
	Major, Minor uint32

	fs    *FS
	flags uint32
	raw   []byte // of the inode
}

// Inode reads a file's inode.
func (fs *FS) Inode(n uint32) (*Inode, error) {
	if n == 0 || n > fs.inodes {
		return nil, bad("inode %d of %d", n, fs.inodes)
	}
	at := int64((n-1)%fs.perGroup) * fs.inodeSize
	buf := make([]byte, blockSize)
	if err := fs.block(fs.tables[(n-1)/fs.perGroup]+uint64(at)/blockSize, buf); err != nil {
		return nil, err
	}
	raw := buf[at%blockSize:][:fs.inodeSize]
	i := &Inode{
		Number: n, Mode: uint32(le.Uint16(raw)), Links: uint32(le.Uint16(raw[0x1a:])),
		UID:        uint32(le.Uint16(raw[0x2:])) | uint32(le.Uint16(raw[0x78:]))<<16,
		GID:        uint32(le.Uint16(raw[0x18:])) | uint32(le.Uint16(raw[0x7a:]))<<16,
		Size:       int64(uint64(le.Uint32(raw[0x4:])) | uint64(le.Uint32(raw[0x6c:]))<<32),
		Generation: le.Uint32(raw[0x64:]), flags: le.Uint32(raw[0x20:]), raw: raw, fs: fs,
	}
	i.Atime, i.Mtime, i.Ctime = i.time(0x8, 0x8c), i.time(0x10, 0x88), i.time(0xc, 0x84)
	switch i.Mode & typeMask {
	case typeFIFO, typeSock, typeDir, typeReg, typeLink:
	case typeChar, typeBlk:
		i.device()
	default:
		return nil, bad("inode %d has mode %#o", n, i.Mode)
	}
	if i.Links == 0 || i.Size < 0 {
		return nil, bad("inode %d has %d links and %d bytes", n, i.Links, i.Size)
	}
	return i, nil
}

// extra is how many bytes of the second half of the inode are in use.
func (i *Inode) extra() int { return int(le.Uint16(i.raw[0x80:])) }

// time reads a time: seconds, and in another field two more bits of them and
// nanoseconds.
func (i *Inode) time(at, more int) time.Time {
	sec, nsec := int64(int32(le.Uint32(i.raw[at:]))), int64(0)
	if i.extra() >= more+4-0x80 {
		x := le.Uint32(i.raw[more:])
		sec, nsec = sec+int64(x&3)<<32, int64(x>>2)
	}
	return time.Unix(sec, min(nsec, 999_999_999))
}

// device reads a device's number: in the old form of 16 bits or the new one.
func (i *Inode) device() {
	if old := le.Uint32(i.raw[0x28:]); old != 0 {
		i.Major, i.Minor = old>>8&0xff, old&0xff
		return
	}
	dev := le.Uint32(i.raw[0x2c:])
	i.Major, i.Minor = dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
}

// Target returns where a symbolic link leads.
func (i *Inode) Target() (string, error) {
	if i.Mode&typeMask != typeLink || i.Size == 0 || i.Size >= maxLink {
		return "", bad("inode %d is no link of at most %d bytes", i.Number, maxLink)
	}
	if i.flags&flagExtents == 0 {
		if i.Size >= inlineLink {
			return "", bad("the link of inode %d has no block", i.Number)
		}
		return string(i.raw[0x28:][:i.Size]), nil
	}
	buf := make([]byte, blockSize)
	found := false
	err := i.Extents(func(e Extent) error {
		if found = e.Offset == 0 && e.Bytes >= blockSize; !found {
			return bad("the link of inode %d is not in one block", i.Number)
		}
		return i.fs.block(uint64(e.Disk/blockSize), buf)
	})
	if err == nil && !found {
		err = bad("the link of inode %d has no block", i.Number)
	}
	return string(buf[:i.Size]), err
}
