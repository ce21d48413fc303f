package reader

import (
	"context"
	"errors"
	"slices"

	"containerd-shim-uni/builder/tree"

	"golang.org/x/sys/unix"
)

// Lookup follows a path from the root, as tree.Node.Lookup does. It reads the
// directories on the way and no more. A directory that it returns has the names
// of its entries, without their nodes.
func (fs *FS) Lookup(name string) (*tree.Node, string, error) {
	root, err := fs.fresh().node(fs.root)
	if err != nil {
		return nil, "", err
	}
	ids := map[*tree.Node]uint64{root: fs.root}
	n, at, err := tree.Follow(root, name, func(dir *tree.Node, name string) (*tree.Node, error) {
		found, err := fs.child(ids[dir], name)
		if err != nil {
			return nil, err
		}
		kid, err := fs.fresh().node(found)
		ids[kid] = found
		return kid, err
	})
	if err != nil || !n.IsDir() {
		return n, at, err
	}
	err = fs.entries(ids[n], func(d dirent) error {
		if d.name != "." && d.name != ".." {
			n.Entries = append(n.Entries, tree.Entry{Name: d.name})
		}
		return nil
	})
	return n, at, err
}

// fresh reads single nodes, each for itself.
func (fs *FS) fresh() *walker {
	return &walker{fs: fs, ctx: context.Background(), nodes: map[uint64]*tree.Node{}, links: map[*tree.Node]uint32{}, budget: fs.size}
}

// errFound ends a search.
var errFound = errors.New("found")

// child returns the node id of an entry of a directory, or unix.ENOENT.
func (fs *FS) child(dir uint64, name string) (nid uint64, err error) {
	err = fs.entries(dir, func(d dirent) error {
		if d.name != name {
			return nil
		}
		nid = d.nid
		return errFound
	})
	switch {
	case errors.Is(err, errFound):
		return nid, nil
	case err != nil:
		return 0, err
	default:
		return 0, unix.ENOENT
	}
}

// entries calls f for the entries of a directory.
func (fs *FS) entries(dir uint64, f func(dirent) error) error {
	in, err := fs.inode(dir)
	if err != nil {
		return err
	}
	data, err := fs.fresh().data(in)
	if err != nil {
		return err
	}
	for block := range slices.Chunk(data, blockSize) {
		if err := dirents(block, f); err != nil {
			return err
		}
	}
	return nil
}
