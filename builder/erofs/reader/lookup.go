package reader

import (
	"context"
	"errors"

	"containerd-shim-uni/builder/tree"

	"golang.org/x/sys/unix"
)

// Lookup follows a path from the root, as tree.Node.Lookup does. It reads a few
// blocks of each directory on the way, as the kernel does, however large that
// claims to be. What it returns is without extended attributes; a directory has
// the names of its entries, without their nodes, and one with more than 4 MiB of
// them is ErrFormat.
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
	n.Entries, err = fs.list(ids[n])
	return n, at, err
}

// fresh reads single nodes, each for itself.
func (fs *FS) fresh() *walker {
	return &walker{fs: fs, ctx: context.Background(), nodes: map[uint64]*tree.Node{}, links: map[*tree.Node]uint32{}, meter: &tree.Meter{}, single: true}
}

// errFound ends a search.
var errFound = errors.New("found")

// child returns the node id of an entry of a directory, or unix.ENOENT. Names
// are in order all over a directory, so that halving finds the one block that
// can have it.
func (fs *FS) child(dir uint64, name string) (nid uint64, err error) {
	in, err := fs.inode(dir)
	if err != nil {
		return 0, err
	}
	b := newBlocks(fs, in)
	low, high := int64(0), b.count
	for low < high {
		middle := low + (high-low)/2
		block, err := b.read(middle)
		if err != nil {
			return 0, err
		}
		var first string
		err = dirents(block, func(d dirent) error {
			if first == "" {
				first = d.name
			}
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
		case name < first:
			high = middle
		default:
			low = middle + 1
		}
	}
	return 0, unix.ENOENT
}

// maxList bounds a directory whose names are listed, in bytes.
const maxList = 4 << 20

// list returns the names in a directory.
func (fs *FS) list(dir uint64) (all []tree.Entry, err error) {
	in, err := fs.inode(dir)
	if err != nil {
		return nil, err
	}
	if in.size > maxList {
		return nil, broken("a directory of %d bytes, at most %d are listed", in.size, maxList)
	}
	b := newBlocks(fs, in)
	for i := range b.count {
		block, err := b.read(i)
		if err != nil {
			return nil, err
		}
		err = dirents(block, func(d dirent) error {
			if d.name != "." && d.name != ".." {
				all = append(all, tree.Entry{Name: d.name})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// blocks reads a directory, one block after the other into one buffer.
type blocks struct {
	content
	count int64
	buf   []byte
}

func newBlocks(fs *FS, in inode) *blocks {
	return &blocks{content{fs, in}, (in.size + blockSize - 1) / blockSize, make([]byte, min(blockSize, in.size))}
}

// read returns a block, valid until the next call.
func (b *blocks) read(i int64) ([]byte, error) {
	at := i * blockSize
	block := b.buf[:min(blockSize, b.n.size-at)]
	_, err := b.ReadAt(block, at)
	return block, err
}
