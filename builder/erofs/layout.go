package erofs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openBlocks is how many partly filled blocks of inodes are kept in reach. More
// save a little space and cost a little time.
const openBlocks = 32

// layout gives every inode its place and every file its blocks. It returns the
// number of blocks of the image.
func layout(nodes []*node) (blocks uint64, err error) {
	var m metaAllocator
	m.init()
	for _, n := range nodes {
		head := inodeSize + len(n.xattrs)
		tail := int(n.size % blockSize)
		if tail > 0 && head+tail <= blockSize {
			n.inline = tail
		}
		n.nid = m.place(head+n.inline) / slotSize
	}
	blocks = m.blocks
	for _, n := range nodes {
		need := (uint64(n.size) - uint64(n.inline) + blockSize - 1) / blockSize
		if need == 0 {
			continue
		}
		n.block = uint32(blocks)
		if blocks += need; blocks > maxBlocks {
			return 0, fmt.Errorf("the files are larger than %d TiB: %w", maxBlocks>>(40-blockBits)+1, unix.EFBIG)
		}
	}
	return blocks, nil
}

// metaAllocator places inodes so that none that fits in a block crosses into
// the next: data that follows an inode must not (erofs.rst).
type metaAllocator struct {
	blocks uint64
	open   []hole
}

// hole is the free end of a block.
type hole struct{ start, free uint64 }

func (m *metaAllocator) init() {
	m.blocks = 1
	m.open = []hole{{superOffset + superSize, blockSize - superOffset - superSize}}
}

// place returns the byte offset of size bytes at a slot's boundary.
func (m *metaAllocator) place(size int) uint64 {
	need := (uint64(size) + slotSize - 1) / slotSize * slotSize
	if need > blockSize { // long attributes: blocks of its own
		start := m.blocks * blockSize
		m.blocks += (need + blockSize - 1) / blockSize
		return start
	}
	best := -1
	for i, h := range m.open {
		if h.free >= need && (best < 0 || h.free < m.open[best].free) {
			best = i
		}
	}
	if best < 0 {
		best = m.newBlock()
	}
	h := &m.open[best]
	start := h.start
	h.start += need
	h.free -= need
	return start
}

// newBlock opens a block, in the place of the fullest when enough are open.
func (m *metaAllocator) newBlock() int {
	h := hole{m.blocks * blockSize, blockSize}
	m.blocks++
	if len(m.open) < openBlocks {
		m.open = append(m.open, h)
		return len(m.open) - 1
	}
	fullest := 0
	for i := range m.open {
		if m.open[i].free < m.open[fullest].free {
			fullest = i
		}
	}
	m.open[fullest] = h
	return fullest
}
