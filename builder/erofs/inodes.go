package erofs

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// node is one inode with what the format needs beside the tree's.
type node struct {
	*tree.Node
	size    int64
	nlink   uint32
	xattrs  []byte // encoded, see xattr.go
	entries []entry

	// Set by the layout.
	nid    uint64
	block  uint32 // first block of data
	inline int    // bytes of data that follow the inode
}

// entry is one name in a directory.
type entry struct {
	name string
	node *node
}

// fileType is the type a directory entry repeats; 0 for an unknown one.
func (n *node) fileType() byte {
	switch n.Type() {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	case unix.S_IFLNK:
		return 7
	}
	return 0
}

// rdev is the kernel's new_encode_dev: 12 bits of major, 20 of minor.
func (n *node) rdev() uint32 { return n.Minor&0xff | n.Major<<8 | n.Minor&^0xff<<12 }

// Limits of a device's numbers.
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// inodes is a tree's nodes, each directory after its parent, root first.
type inodes struct {
	nodes []*node
	links map[*tree.Node]*node // files with several names
}

// collect lists the nodes of a tree.
func collect(root *tree.Node) ([]*node, error) {
	if !root.IsDir() {
		return nil, unix.ENOTDIR
	}
	c := inodes{links: map[*tree.Node]*node{}}
	n, err := c.add(root)
	if err != nil {
		return nil, fmt.Errorf("/: %w", err)
	}
	if err := c.fill(n, n, ""); err != nil {
		return nil, err
	}
	return c.nodes, nil
}

// fill lists directory n's entries, and theirs. at is n's path.
func (c *inodes) fill(n, parent *node, at string) error {
	n.entries = make([]entry, 0, len(n.Entries)+2)
	n.entries = append(n.entries, entry{".", n}, entry{"..", parent})
	n.nlink = 2
	if err := tree.CheckEntries(n.Entries); err != nil {
		return fmt.Errorf("%.300q: %w", at+"/", err)
	}
	for _, e := range n.Entries {
		path := at + "/" + e.Name
		kid, err := c.add(e.Node)
		if err != nil {
			return fmt.Errorf("%.300q: %w", path, err)
		}
		n.entries = append(n.entries, entry{e.Name, kid})
		if kid.IsDir() {
			n.nlink++
			if err := c.fill(kid, n, path); err != nil {
				return err
			}
		}
	}
	// "." and ".." have no special place: "!" sorts before both.
	slices.SortFunc(n.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	n.size = dirSize(n.entries)
	return nil
}

// add returns the node of a file: a new one, or the one of an earlier name.
func (c *inodes) add(t *tree.Node) (*node, error) {
	if first := c.links[t]; first != nil {
		first.nlink++
		return first, nil
	}
	n := &node{Node: t, nlink: 1}
	switch {
	case t.IsFile():
		if n.size = t.Size; n.size < 0 || n.size > 0 && t.Data == nil {
			return nil, fmt.Errorf("%d bytes without contents", n.size)
		}
	case t.IsLink():
		n.size = int64(len(t.Target))
	case t.IsDevice() && (t.Major > maxMajor || t.Minor > maxMinor):
		return nil, fmt.Errorf("device %d:%d: %w", t.Major, t.Minor, unix.EOVERFLOW)
	}
	if n.fileType() == 0 {
		return nil, fmt.Errorf("unknown file type %#o", t.Mode)
	}
	var err error
	if n.xattrs, err = encodeXattrs(t.Xattrs); err != nil {
		return nil, err
	}
	c.nodes = append(c.nodes, n)
	if t.Links > 1 {
		c.links[t] = n
	}
	return n, nil
}
