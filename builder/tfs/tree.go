package tfs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// maxFiles bounds the names of a tree that is read: a log can hold many.
const maxFiles = 8 << 20

// Tree returns all files. What the format does not have is what the guest
// makes of it: root's, and all permissions. A directory with two names or a
// name that is none is ErrFormat.
func (f *FS) Tree(ctx context.Context) (*tree.Node, error) {
	r := treeReader{ctx: ctx, nodes: map[*Tuple]*tree.Node{}}
	top := f.Top()
	root := r.node(top)
	return root, r.fill(top, root, "", 0)
}

// treeReader makes the nodes of a tree.
type treeReader struct {
	ctx   context.Context
	nodes map[*Tuple]*tree.Node
	names int
}

// fill reads a directory's entries, and theirs. at is its path.
func (r *treeReader) fill(dir File, n *tree.Node, at string, depth int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	names := dir.Names()
	r.names += len(names)
	if depth > maxNesting || r.names > maxFiles {
		return fmt.Errorf("%.300q: too many files or directories: %w", at, ErrFormat)
	}
	for _, name := range names {
		f, _ := dir.Child(name)
		kid := r.nodes[f.t]
		switch {
		case kid == nil:
			kid = r.node(f)
		case kid.IsDir():
			return fmt.Errorf("%.300q: a directory with two names: %w", at+"/"+name, ErrFormat)
		default:
			kid.Links++
		}
		n.Entries = append(n.Entries, tree.Entry{Name: name, Node: kid})
		if kid.IsDir() {
			if err := r.fill(f, kid, at+"/"+name, depth+1); err != nil {
				return err
			}
		}
	}
	if err := tree.CheckEntries(n.Entries); err != nil {
		return fmt.Errorf("%.300q: %w: %w", at+"/", err, ErrFormat)
	}
	return nil
}

func (r *treeReader) node(f File) *tree.Node {
	sec, nsec := f.Mtime()
	n := &tree.Node{Mode: unix.S_IFSOCK | 0o777, Mtime: sec, MtimeNsec: uint32(nsec), Links: 1}
	switch target, isLink := f.Target(); {
	case f.IsDir():
		n.Mode, n.Links = unix.S_IFDIR|0o777, 0
	case isLink:
		n.Mode, n.Target = unix.S_IFLNK|0o777, target
	case f.IsRegular():
		n.Mode, n.Size = unix.S_IFREG|0o777, f.Size()
		if n.Size > 0 {
			n.Data = f
		}
	}
	for name, value := range f.Xattrs() {
		n.Xattrs = append(n.Xattrs, tree.Xattr{Name: name, Value: value})
	}
	slices.SortFunc(n.Xattrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	r.nodes[f.t] = n
	return n
}
