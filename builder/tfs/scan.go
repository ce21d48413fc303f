package tfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/hostfs"
)

// maxDepth bounds nested directories: the kernel walks the tree by recursion.
const maxDepth = 256

// node is one file of the tree.
type node struct {
	kind    uint32 // S_IFREG, S_IFDIR or S_IFLNK
	path    string // on the host
	target  string // of a symbolic link
	size    int64
	mtime   uint64
	names   uint64 // found in the tree
	xattrs  Settings
	entries []entry

	extents []extent
	index   uint64 // of the tuple, once it is in the log
	kids    uint64 // index of the tuple of a directory's entries
}

type entry struct {
	name string
	node *node
}

// tree is a scanned directory: all nodes, each after its parent.
type tree struct {
	nodes []*node
	links map[[2]uint64]*node // files with several names, by device and inode
}

// kernelDirs are directories in which the kernel makes files. What an image has
// there is hidden by mounts in every container.
var kernelDirs = map[string]bool{"dev": true, "proc": true, "sys": true}

// scan reads the metadata of everything below dir.
func scan(ctx context.Context, dir string) (*tree, error) {
	t := &tree{links: map[[2]uint64]*node{}}
	root, err := t.add(dir)
	if err != nil {
		return nil, err
	}
	if root == nil || root.kind != unix.S_IFDIR {
		return nil, fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
	}
	return t, t.fill(ctx, root, 0)
}

// fill reads directory n's entries, and theirs.
func (t *tree) fill(ctx context.Context, n *node, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep: %w", n.path, maxDepth, unix.ELOOP)
	}
	names, err := hostfs.ReadNames(n.path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if depth == 0 && kernelDirs[name] {
			t.empty(n, name)
			continue
		}
		kid, err := t.add(n.path + "/" + name)
		if err != nil {
			return err
		}
		if kid == nil {
			continue
		}
		n.entries = append(n.entries, entry{name, kid})
		if kid.kind == unix.S_IFDIR {
			if err := t.fill(ctx, kid, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// empty adds an empty directory.
func (t *tree) empty(parent *node, name string) {
	kid := &node{kind: unix.S_IFDIR, names: 1}
	t.nodes = append(t.nodes, kid)
	parent.entries = append(parent.entries, entry{name, kid})
}

// add returns the node of a file: a new one, or the one of an earlier name; nil
// for what the file system cannot hold.
func (t *tree) add(path string) (*node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := &node{kind: st.Mode & unix.S_IFMT, path: path, names: 1, mtime: timestamp(st.Mtim)}
	linked := st.Nlink > 1 && n.kind != unix.S_IFDIR
	id := [2]uint64{uint64(st.Dev), st.Ino}
	if first := t.links[id]; linked && first != nil {
		first.names++
		return first, nil
	}
	var err error
	switch n.kind {
	case unix.S_IFREG:
		n.size = st.Size
	case unix.S_IFLNK:
		n.target, err = os.Readlink(path)
	case unix.S_IFDIR:
	default:
		return nil, nil
	}
	if err == nil {
		n.xattrs, err = readXattrs(path)
	}
	if err != nil {
		return nil, err
	}
	t.nodes = append(t.nodes, n)
	if linked {
		t.links[id] = n
	}
	return n, nil
}

// timestamp is the kernel's: 32 bits of seconds, 32 of fraction; 0 for what it
// cannot say.
func timestamp(t unix.Timespec) uint64 {
	if t.Sec < 0 || t.Sec >= 1<<32 {
		return 0
	}
	return uint64(t.Sec)<<32 | uint64(t.Nsec)<<32/1e9
}

// readXattrs returns the attributes of the name space "user", the only one that
// means anything in a guest without users. They share a tuple with the file's
// own attributes, whose names have no dot.
func readXattrs(path string) (Settings, error) {
	names, err := hostfs.ListXattrs(path)
	if err != nil {
		return nil, err
	}
	var list Settings
	for _, name := range names {
		if !strings.HasPrefix(name, "user.") || hostfs.HostXattr(name) {
			continue
		}
		value, err := hostfs.GetXattr(path, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: read attribute %q: %w", path, name, err)
		}
		list = append(list, Setting{name, string(value)})
	}
	return list, nil
}
