package tfs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// Tree returns all files. What the format does not have is what the guest
// makes of it: root's, and all permissions. A directory with two names or a
// name that is none is ErrFormat, more than a tree may have tree.ErrTooLarge.
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
	meter tree.Meter
}

// fill reads a directory's entries, and theirs. at is its path.
func (r *treeReader) fill(dir File, n *tree.Node, at string, depth int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if depth > maxNesting {
		return fmt.Errorf("%.300q: too many directories in each other: %w", at, ErrFormat)
	}
	for _, name := range dir.Names() {
		if err := r.meter.Name(name); err != nil {
			return err
		}
		f, _ := dir.Child(name)
		kid := r.nodes[f.t]
		switch {
		case kid == nil:
			kid = r.node(f)
			if err := r.meter.Node(kid); err != nil {
				return err
			}
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
