package erofs

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// node is one inode of the tree.
type node struct {
	mode, uid, gid uint32
	mtime          int64
	mtimeNsec      uint32
	size           int64
	nlink          uint32 // names found in the tree
	rdev           uint32 // encoded, devices only
	xattrs         []byte // encoded, see xattr.go
	path           string // of the data of a regular file that has some
	target         string // of a symbolic link
	entries        []entry

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

func (n *node) isDir() bool  { return n.mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) isFile() bool { return n.mode&unix.S_IFMT == unix.S_IFREG }

func (n *node) isDevice() bool {
	return n.mode&unix.S_IFMT == unix.S_IFCHR || n.mode&unix.S_IFMT == unix.S_IFBLK
}

// fileType is the type a directory entry repeats.
func (n *node) fileType() byte {
	switch n.mode & unix.S_IFMT {
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

// tree is a scanned directory: all nodes, each after its parent, root first.
type tree struct {
	nodes []*node
	links map[[2]uint64]*node // files with several names, by device and inode
}

// scan reads the metadata of everything below dir.
func scan(ctx context.Context, dir string) (*tree, error) {
	t := &tree{links: map[[2]uint64]*node{}}
	root, err := t.add(dir)
	if err != nil {
		return nil, err
	}
	if !root.isDir() {
		return nil, fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
	}
	if err := t.fill(ctx, dir, root, root); err != nil {
		return nil, err
	}
	return t, nil
}

// fill reads directory n's entries, and theirs.
func (t *tree) fill(ctx context.Context, path string, n, parent *node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(path)
	if err != nil {
		return err
	}
	n.entries = make([]entry, 0, len(names)+2)
	n.entries = append(n.entries, entry{".", n}, entry{"..", parent})
	n.nlink = 2
	for _, name := range names {
		kid, err := t.add(path + "/" + name)
		if err != nil {
			return err
		}
		n.entries = append(n.entries, entry{name, kid})
		if kid.isDir() {
			n.nlink++
			if err := t.fill(ctx, path+"/"+name, kid, n); err != nil {
				return err
			}
		}
	}
	// "." and ".." have no special place: "!" sorts before both.
	slices.SortFunc(n.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	n.size = dirSize(n.entries)
	return nil
}

// readNames returns the sorted names, so that scanning itself is deterministic.
func readNames(path string) ([]string, error) {
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// add returns the node of a file: a new one, or the one of an earlier name.
func (t *tree) add(path string) (*node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	linked := st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR
	id := [2]uint64{uint64(st.Dev), st.Ino}
	if first := t.links[id]; linked && first != nil {
		first.nlink++
		return first, nil
	}
	n, err := newNode(path, &st)
	if err != nil {
		return nil, err
	}
	t.nodes = append(t.nodes, n)
	if linked {
		t.links[id] = n
	}
	return n, nil
}

func newNode(path string, st *unix.Stat_t) (*node, error) {
	n := &node{
		mode: st.Mode, uid: st.Uid, gid: st.Gid, nlink: 1,
		mtime: st.Mtim.Sec, mtimeNsec: uint32(st.Mtim.Nsec),
	}
	switch {
	case n.isFile():
		n.size = st.Size
		if n.size > 0 {
			n.path = path
		}
	case n.mode&unix.S_IFMT == unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		n.target, n.size = target, int64(len(target))
	case n.isDevice():
		n.rdev = encodeDevice(uint64(st.Rdev))
	}
	if n.fileType() == 0 {
		return nil, fmt.Errorf("%s: unknown file type %#o", path, st.Mode)
	}
	var err error
	n.xattrs, err = readXattrs(path)
	return n, err
}

// encodeDevice is the kernel's new_encode_dev: 12 bits of major, 20 of minor.
func encodeDevice(rdev uint64) uint32 {
	major, minor := unix.Major(rdev), unix.Minor(rdev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}
