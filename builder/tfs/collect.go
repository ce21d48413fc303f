package tfs

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// maxDepth bounds nested directories: the kernel walks the tree by recursion.
const maxDepth = 256

// node is one inode with what the format needs beside the tree's.
type node struct {
	*tree.Node
	names   uint64 // under which it is stored
	entries []entry

	extents []extent
	index   uint64 // of the tuple, once it is in the log
	kids    uint64 // index of the tuple of a directory's entries
}

type entry struct {
	name string
	node *node
}

// kernelDirs are directories in which the kernel makes files. What an image has
// there is hidden by mounts in every container.
var kernelDirs = map[string]bool{"dev": true, "proc": true, "sys": true}

// emptyDir stands for those.
var emptyDir = &tree.Node{Mode: unix.S_IFDIR | 0o755}

// collector lists what is stored of a tree: all nodes, each after its parent.
type collector struct {
	ctx   context.Context
	nodes []*node
	links map[*tree.Node]*node // files with several names
}

// collect lists the nodes of a tree. In one that a kernel boots from, kernelDirs
// are empty.
func collect(ctx context.Context, root *tree.Node, boots bool) ([]*node, error) {
	if !root.IsDir() {
		return nil, unix.ENOTDIR
	}
	c := &collector{ctx: ctx, links: map[*tree.Node]*node{}}
	return c.nodes, c.fill(c.add(root), "", 0, boots)
}

// fill lists directory n's entries, and theirs. at is n's path.
func (c *collector) fill(n *node, at string, depth int, boots bool) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%.300q: more than %d directories deep: %w", at, maxDepth, unix.ELOOP)
	}
	if err := tree.CheckEntries(n.Entries); err != nil {
		return fmt.Errorf("%.300q: %w", at+"/", err)
	}
	n.entries = make([]entry, 0, len(n.Entries))
	for _, e := range n.Entries {
		if boots && depth == 0 && kernelDirs[e.Name] {
			e.Node = emptyDir
		}
		path := at + "/" + e.Name
		if e.Node.IsFile() && (e.Node.Size < 0 || e.Node.Size > 0 && e.Node.Data == nil) {
			return fmt.Errorf("%.300q: %d bytes without contents", path, e.Node.Size)
		}
		kid := c.add(e.Node)
		if kid == nil {
			continue
		}
		n.entries = append(n.entries, entry{e.Name, kid})
		if kid.IsDir() {
			if err := c.fill(kid, path, depth+1, boots); err != nil {
				return err
			}
		}
	}
	return nil
}

// add returns the node of a file: a new one, or the one of an earlier name; nil
// for what the file system cannot hold.
func (c *collector) add(t *tree.Node) *node {
	if first := c.links[t]; first != nil {
		first.names++
		return first
	}
	if !t.IsFile() && !t.IsLink() && !t.IsDir() {
		return nil
	}
	n := &node{Node: t, names: 1}
	c.nodes = append(c.nodes, n)
	if t.Links > 1 && !t.IsDir() {
		c.links[t] = n
	}
	return n
}

// attributes are those of a file beside its contents.
func (n *node) attributes() Settings {
	list := xattrs(n.Xattrs)
	if at := timestamp(n.Mtime, n.MtimeNsec); at > 0 {
		list = append(list, Setting{attrMtime, at})
	}
	if n.names > 1 {
		list = append(list, Setting{attrLinks, n.names})
	}
	return list
}

// timestamp is the kernel's: 32 bits of seconds, 32 of fraction; 0 for what it
// cannot say.
func timestamp(sec int64, nsec uint32) uint64 {
	if sec < 0 || sec >= 1<<32 {
		return 0
	}
	return uint64(sec)<<32 | uint64(nsec)<<32/1e9
}

// xattrs returns the attributes of the name space "user", the only one that
// means anything in a guest without users. They share a tuple with the file's
// own attributes, whose names have no dot.
func xattrs(all []tree.Xattr) Settings {
	var list Settings
	for _, x := range all {
		if strings.HasPrefix(x.Name, "user.") {
			list = append(list, Setting{x.Name, x.Value})
		}
	}
	return list
}
