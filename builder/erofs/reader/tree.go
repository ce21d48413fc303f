package reader

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"containerd-shim-uni/builder/tree"
)

// File types of st_mode.
const (
	typeMask  = 0o170000
	typeFile  = 0o100000
	typeDir   = 0o040000
	typeLink  = 0o120000
	typeChar  = 0o020000
	typeBlock = 0o060000
)

// direntTypes is what directory entries call the types.
var direntTypes = map[uint16]byte{typeFile: 1, typeDir: 2, typeChar: 3, typeBlock: 4, 0o010000: 5, 0o140000: 6, typeLink: 7}

const (
	maxDepth  = 10_000
	maxTarget = 4096
)

// Tree reads all metadata and checks it: names in order, "." and ".." where
// they belong, counts of links. Contents are read when they are opened. More
// files than a tree may have (tree.Meter) are tree.ErrTooLarge.
func (fs *FS) Tree(ctx context.Context) (*tree.Node, error) {
	w := walker{fs: fs, ctx: ctx, nodes: map[uint64]*tree.Node{}, links: map[*tree.Node]uint32{}, meter: &tree.Meter{}}
	root, err := w.node(fs.root)
	if err != nil {
		return nil, err
	}
	if !root.IsDir() {
		return nil, broken("the root is no directory")
	}
	if err := w.dir(fs.root, fs.root, root, 0); err != nil {
		return nil, err
	}
	for n, want := range w.links {
		if n.Links != want {
			return nil, broken("a file has %d names, its inode says %d", n.Links, want)
		}
	}
	if uint64(len(w.nodes)) != fs.Inodes {
		return nil, broken("%d inodes, the superblock says %d", len(w.nodes), fs.Inodes)
	}
	return root, nil
}

// walker reads a tree.
type walker struct {
	fs    *FS
	ctx   context.Context
	nodes map[uint64]*tree.Node
	links map[*tree.Node]uint32 // what inodes say
	meter *tree.Meter
	// single says that nodes are read one by one, without their attributes.
	single bool
}

// node returns the node of a node id.
func (w *walker) node(nid uint64) (*tree.Node, error) {
	if n := w.nodes[nid]; n != nil {
		if n.IsDir() {
			return nil, broken("directory %d has two names", nid)
		}
		n.Links++
		return n, nil
	}
	in, err := w.fs.inode(nid)
	if err != nil {
		return nil, err
	}
	n := &tree.Node{Mode: uint32(in.mode), UID: in.uid, GID: in.gid, Mtime: in.mtime, MtimeNsec: in.nsec}
	switch in.mode & typeMask {
	case typeFile:
		if n.Size = in.size; n.Size > 0 {
			n.Data = opener{w.fs, nid}
		}
	case typeLink:
		if in.size == 0 || in.size > maxTarget {
			return nil, broken("a symbolic link of %d bytes", in.size)
		}
		target := make([]byte, in.size)
		if _, err := (content{w.fs, in}).ReadAt(target, 0); err != nil {
			return nil, err
		}
		n.Target = string(target)
	case typeChar, typeBlock: // the kernel's new_decode_dev
		n.Major, n.Minor = in.union>>8&0xfff, in.union&0xff|in.union>>12&0xfff00
	}
	if direntTypes[in.mode&typeMask] == 0 {
		return nil, broken("node id %d has mode %#o", nid, in.mode)
	}
	if !w.single {
		if n.Xattrs, err = w.xattrs(in); err != nil {
			return nil, err
		}
	}
	if err := w.meter.Node(n); err != nil {
		return nil, err
	}
	if !w.single && uint64(len(w.nodes)) >= w.fs.Inodes {
		return nil, broken("more than the %d inodes that the superblock says", w.fs.Inodes)
	}
	w.nodes[nid] = n
	if !n.IsDir() {
		n.Links, w.links[n] = 1, in.nlink
	}
	return n, nil
}

// opener opens a regular file's contents.
type opener struct {
	fs  *FS
	nid uint64
}

// Open implements tree.Opener.
func (o opener) Open() (tree.Content, error) {
	in, err := o.fs.inode(o.nid)
	return content{o.fs, in}, err
}

// dir reads the entries of a directory, and theirs.
func (w *walker) dir(nid, parent uint64, n *tree.Node, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return broken("more than %d directories in each other", maxDepth)
	}
	in, err := w.fs.inode(nid)
	if err != nil {
		return err
	}
	last, dots, nlink := "", 0, uint32(2)
	b := newBlocks(w.fs, in)
	for i := range b.count {
		block, err := b.read(i)
		if err != nil {
			return err
		}
		err = dirents(block, func(d dirent) error {
			if last != "" && last >= d.name {
				return broken("%q follows %q", d.name, last)
			}
			last = d.name
			if d.name == "." || d.name == ".." {
				dots++
				if want := map[string]uint64{".": nid, "..": parent}[d.name]; d.nid != want || d.kind != direntTypes[typeDir] {
					return broken("%q of directory %d is %d", d.name, nid, d.nid)
				}
				return nil
			}
			kid, err := w.entry(n, d)
			if err != nil || !kid.IsDir() {
				return err
			}
			nlink++
			return w.dir(d.nid, nid, kid, depth+1)
		})
		if err != nil {
			return err
		}
	}
	if dots != 2 || in.nlink != nlink {
		return broken("directory %d: %d of 2 own entries, %d links where %d are", nid, dots, in.nlink, nlink)
	}
	return nil
}

// entry adds an entry to directory n.
func (w *walker) entry(n *tree.Node, d dirent) (*tree.Node, error) {
	kid, err := w.node(d.nid)
	if err != nil {
		return nil, err
	}
	if direntTypes[uint16(kid.Mode)&typeMask] != d.kind {
		return nil, broken("%q: type %d of mode %#o", d.name, d.kind, kid.Mode)
	}
	if err := w.meter.Name(d.name); err != nil {
		return nil, err
	}
	n.Entries = append(n.Entries, tree.Entry{Name: d.name, Node: kid})
	return kid, nil
}

// dirent is one on disk.
type dirent struct {
	nid  uint64
	kind byte
	name string
}

const direntSize = 12

// dirents calls f for the entries of one block of a directory.
func dirents(block []byte, f func(dirent) error) error {
	le := binary.LittleEndian
	if len(block) < direntSize {
		return broken("a directory block of %d bytes", len(block))
	}
	first := int(le.Uint16(block[8:]))
	if first == 0 || first%direntSize != 0 || first > len(block) {
		return broken("names of a directory start at %d", first)
	}
	for at := 0; at < first; at += direntSize {
		b := block[at:]
		start, end := int(le.Uint16(b[8:])), len(block)
		isLast := at+direntSize == first
		if !isLast {
			end = int(le.Uint16(b[direntSize+8:]))
		}
		if start < first || start >= end || end > len(block) {
			return broken("a name from %d to %d", start, end)
		}
		name := block[start:end]
		if z := bytes.IndexByte(name, 0); isLast && z >= 0 {
			name = name[:z]
		}
		if len(name) == 0 || len(name) > 255 || bytes.ContainsAny(name, "/\x00") {
			return broken("name %q", name)
		}
		if err := f(dirent{le.Uint64(b), b[10], string(name)}); err != nil {
			return err
		}
	}
	return nil
}

var xattrPrefixes = map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}

// xattrs reads the attributes that follow an inode.
func (w *walker) xattrs(in inode) ([]tree.Xattr, error) {
	if in.xattrLen == 0 {
		return nil, nil
	}
	b := make([]byte, in.xattrLen)
	if err := w.fs.read(b, in.xattrAt); err != nil {
		return nil, err
	}
	if b[4] != 0 {
		return nil, broken("shared attributes")
	}
	var attrs []tree.Xattr
	for b = b[12:]; len(b) > 0; {
		nameLen, valueLen := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		prefix, ok := xattrPrefixes[b[1]]
		size := (4 + nameLen + valueLen + 3) / 4 * 4
		if !ok || size > len(b) {
			return nil, broken("attribute % x", b[:4])
		}
		attrs = append(attrs, tree.Xattr{Name: prefix + string(b[4:4+nameLen]), Value: string(b[4+nameLen : 4+nameLen+valueLen])})
		b = b[size:]
	}
	slices.SortFunc(attrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return attrs, nil
}
