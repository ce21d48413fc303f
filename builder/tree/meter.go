package tree

import (
	"fmt"
	"sync/atomic"

	"containerd-shim-uni/unikernel"
)

// Bounds of a tree in memory, in bytes: absolute ones, because what a tree comes
// from can claim anything, and compressed or sparse files of kilobytes can hold
// a tree of gigabytes. The largest images in use have some hundred thousand
// files, which take 100 MiB.
const (
	maxMemory = 768 << 20
	// maxXattrs bounds extended attributes by themselves: a file can have 64 KiB
	// of them, and needs some 20 bytes.
	maxXattrs = 64 << 20
	// What a node and a name take beside their texts: with what readers keep of
	// each, such as an entry of a table.
	nodeCost, nameCost, xattrCost = 320, 64, 64
)

// ErrTooLarge is for a tree with more files or attributes than are held.
// It is also an unikernel.ErrInvalid.
var ErrTooLarge = fmt.Errorf("%w: too many files or attributes", unikernel.ErrInvalid)

// Meter counts what a tree takes while it is read, whatever it is read from. The
// zero value has counted nothing. It may be used by several goroutines.
type Meter struct{ memory, xattrs atomic.Int64 }

// Node counts a new node. The error is ErrTooLarge.
func (m *Meter) Node(n *Node) error {
	attrs := 0
	for _, x := range n.Xattrs {
		attrs += xattrCost + len(x.Name) + len(x.Value)
	}
	if m.xattrs.Add(int64(attrs)) > maxXattrs {
		return fmt.Errorf("%w: more than %d MiB of extended attributes", ErrTooLarge, maxXattrs>>20)
	}
	return m.add(nodeCost + len(n.Target) + attrs)
}

// Name counts a name in a directory. The error is ErrTooLarge.
func (m *Meter) Name(name string) error { return m.add(nameCost + len(name)) }

func (m *Meter) add(n int) error {
	if m.memory.Add(int64(n)) > maxMemory {
		return fmt.Errorf("%w: their names and properties take more than %d MiB", ErrTooLarge, maxMemory>>20)
	}
	return nil
}
