package ext4

const (
	extentMagic = 0xf30a
	// extentDepth is the most the kernel makes (EXT4_MAX_EXTENT_DEPTH).
	extentDepth = 5
	// extentWritten is the longest extent; the length of one that reads as zero
	// is that much more.
	extentWritten = 1 << 15
)

// Extent is a range of a file's data.
type Extent struct {
	// Offset is where it is in the file, Disk on the disk, in bytes.
	Offset, Disk, Bytes int64
}

// Extents calls f with the ranges of data, in order; what is between them reads as
// zero. They may end beyond the file's size.
func (i *Inode) Extents(f func(Extent) error) error {
	if i.flags&flagExtents == 0 {
		if i.Size == 0 || i.Mode&typeMask != typeReg && i.Mode&typeMask != typeDir {
			return nil
		}
		return bad("inode %d has no extents", i.Number)
	}
	w := extentWalk{i: i, f: f}
	return w.node(i.raw[0x28:0x28+60], -1)
}

// extentWalk goes through a tree of extents. The blocks of the file that it has
// come by only grow, so it ends.
type extentWalk struct {
	i    *Inode
	f    func(Extent) error
	next int64 // first block of the file that has not been come by
}

// node reads a node that is that many levels above the leaves; -1 for the top.
func (w *extentWalk) node(b []byte, level int) error {
	entries, most, depth := int(le.Uint16(b[2:])), (len(b)-12)/12, int(le.Uint16(b[6:]))
	switch {
	case le.Uint16(b) != extentMagic || entries > most || depth > extentDepth:
		return bad("inode %d has a damaged node of extents", w.i.Number)
	case level >= 0 && (depth != level || entries == 0):
		return bad("inode %d has a node of extents in a wrong place", w.i.Number)
	}
	for n := range entries {
		e := b[12+12*n:]
		if depth == 0 {
			if err := w.leaf(e); err != nil {
				return err
			}
			continue
		}
		child := make([]byte, blockSize)
		if err := w.i.fs.block(uint64(le.Uint32(e[4:]))|uint64(le.Uint16(e[8:]))<<32, child); err != nil {
			return err
		}
		before := w.next
		if err := w.node(child, depth-1); err != nil {
			return err
		}
		if w.next == before {
			return bad("inode %d has a node without extents", w.i.Number)
		}
	}
	return nil
}

func (w *extentWalk) leaf(e []byte) error {
	at, n := int64(le.Uint32(e)), int64(le.Uint16(e[4:]))
	disk := uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32
	zero := n > extentWritten
	if zero {
		n -= extentWritten
	}
	if at < w.next || n == 0 || disk == 0 || disk > w.i.fs.blocks || uint64(n) > w.i.fs.blocks-disk {
		return bad("inode %d has a damaged extent", w.i.Number)
	}
	w.next = at + n
	if zero {
		return nil
	}
	return w.f(Extent{Offset: at * blockSize, Disk: int64(disk) * blockSize, Bytes: n * blockSize})
}

// Plain says that a range of the disk is what it seems: none of it is in the
// journal.
func (fs *FS) Plain(disk, n int64) bool {
	if len(fs.replay) == 0 {
		return true
	}
	for b := uint64(disk / blockSize); b < uint64(disk+n+blockSize-1)/blockSize; b++ {
		if _, ok := fs.replay[b]; ok {
			return false
		}
	}
	return true
}

// Read reads blocks of a range of the disk, as they are when the journal is
// replayed. Both disk and the length of buf are multiples of 4096.
func (fs *FS) Read(disk int64, buf []byte) error {
	for ; len(buf) > 0; disk, buf = disk+blockSize, buf[blockSize:] {
		if err := fs.block(uint64(disk/blockSize), buf); err != nil {
			return err
		}
	}
	return nil
}
