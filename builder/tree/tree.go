package tree

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"containerd-shim-uni/builder/hostfs"

	"golang.org/x/sys/unix"
)

// Node is one inode.
type Node struct {
	// Mode is the file type and the permissions as in st_mode.
	Mode     uint32
	UID, GID uint32
	// Mtime is the modification time: seconds since 1970 and nanoseconds.
	Mtime     int64
	MtimeNsec uint32
	// Size is the length in bytes of a regular file.
	Size int64
	// Major and Minor are a device's.
	Major, Minor uint32
	// Target is a symbolic link's.
	Target string
	// Xattrs are the extended attributes, sorted by name.
	Xattrs []Xattr
	// Entries are a directory's, sorted by name, without "." and "..".
	Entries []Entry
	// Links counts the names of a node that is no directory.
	Links uint32
	// Data opens a regular file's contents; it is nil for an empty file.
	Data Opener
}

// Entry is one name in a directory.
type Entry struct {
	Name string
	Node *Node
}

// Xattr is one extended attribute, with its full name.
type Xattr struct{ Name, Value string }

// Opener opens the contents of a file, any number of times.
type Opener interface {
	Open() (Content, error)
}

// Content is an open file: exactly Node.Size bytes. It may also have methods
// of Sparse.
type Content interface {
	io.ReaderAt
	io.Closer
}

// Sparse is what contents with holes may have.
type Sparse interface {
	// NextData returns the first range of data at or after pos, cut at size;
	// start is size where there is none.
	NextData(pos, size int64) (start, end int64, err error)
}

// ErrChanged is for contents that are not what the node says any more.
var ErrChanged = hostfs.ErrChanged

// MaxName is the longest file name in bytes.
const MaxName = 255

// CheckEntries returns an error for entries that are not those of a directory:
// for a name that is none, and for names that are not in order or twice there.
func CheckEntries(list []Entry) error {
	for i, e := range list {
		switch {
		case len(e.Name) > MaxName:
			return fmt.Errorf("%.300q: %w", e.Name, unix.ENAMETOOLONG)
		case e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00"):
			return fmt.Errorf("%.300q is not a file name", e.Name)
		case i > 0 && list[i-1].Name == e.Name:
			return fmt.Errorf("two entries of the name %.300q", e.Name)
		case i > 0 && list[i-1].Name > e.Name:
			return fmt.Errorf("%.300q follows %.300q", e.Name, list[i-1].Name)
		}
	}
	return nil
}

// Type is the file type, one of unix.S_IFREG and so on.
func (n *Node) Type() uint32 { return n.Mode & unix.S_IFMT }

// IsDir says whether the node is a directory.
func (n *Node) IsDir() bool { return n.Type() == unix.S_IFDIR }

// IsFile says whether the node is a regular file.
func (n *Node) IsFile() bool { return n.Type() == unix.S_IFREG }

// IsLink says whether the node is a symbolic link.
func (n *Node) IsLink() bool { return n.Type() == unix.S_IFLNK }

// IsDevice says whether the node is a character or a block device.
func (n *Node) IsDevice() bool { return n.Type() == unix.S_IFCHR || n.Type() == unix.S_IFBLK }

// Child returns a directory's entry, nil for none.
func (n *Node) Child(name string) *Node {
	i, ok := slices.BinarySearchFunc(n.Entries, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
	if !ok {
		return nil
	}
	return n.Entries[i].Node
}

// Walk calls f for every name of the tree, the root first as "/", each
// directory before its entries, in order of names.
func (n *Node) Walk(f func(path string, n *Node) error) error { return n.walk("/", f) }

func (n *Node) walk(at string, f func(string, *Node) error) error {
	if err := f(at, n); err != nil {
		return err
	}
	for _, e := range n.Entries {
		if err := e.Node.walk(path.Join(at, e.Name), f); err != nil {
			return err
		}
	}
	return nil
}

// PathOf returns the first path of a node in the tree, for a message; empty if
// it has none.
func (n *Node) PathOf(m *Node) (path string) {
	_ = n.Walk(func(at string, here *Node) error {
		if here == m {
			path = at
			return io.EOF // enough
		}
		return nil
	})
	return path
}

// maxLinks is how many symbolic links are followed in one path, Linux's own
// limit.
const maxLinks = 40

// Lookup follows a path from the root as the kernel would, symbolic links
// included, and never leaves the tree. It returns the node and its path without
// links. Errors are unix.ENOENT, ENOTDIR and ELOOP.
func (n *Node) Lookup(name string) (*Node, string, error) {
	return Follow(n, name, func(dir *Node, name string) (*Node, error) {
		if kid := dir.Child(name); kid != nil {
			return kid, nil
		}
		return nil, unix.ENOENT
	})
}

// Follow is Lookup for a tree that is read on the way: child returns the entry
// of a directory, and its errors are Follow's.
func Follow(root *Node, name string, child func(dir *Node, name string) (*Node, error)) (*Node, string, error) {
	todo := strings.Split(name, "/")
	stack := []*Node{root}
	names := []string{""}
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		here := stack[len(stack)-1]
		if part == "" || part == "." {
			continue
		}
		if !here.IsDir() {
			return nil, "", unix.ENOTDIR
		}
		if part == ".." {
			if len(stack) > 1 {
				stack, names = stack[:len(stack)-1], names[:len(names)-1]
			}
			continue
		}
		kid, err := child(here, part)
		if err != nil {
			return nil, "", err
		}
		if !kid.IsLink() {
			stack, names = append(stack, kid), append(names, part)
			continue
		}
		if links++; links > maxLinks {
			return nil, "", unix.ELOOP
		}
		if strings.HasPrefix(kid.Target, "/") {
			stack, names = stack[:1], names[:1]
		}
		todo = append(strings.Split(kid.Target, "/"), todo...)
	}
	return stack[len(stack)-1], "/" + strings.Join(names[1:], "/"), nil
}

// ReadFull fills b from offset at of a file's contents; where they end before,
// it returns ErrChanged.
func ReadFull(in io.ReaderAt, b []byte, at int64) error {
	if len(b) == 0 {
		return nil
	}
	n, err := in.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return ErrChanged
	}
	return err
}

// Reader reads a whole file's contents in order.
func (n *Node) Reader() (io.ReadCloser, error) {
	if n.Data == nil {
		return io.NopCloser(strings.NewReader("")), nil
	}
	c, err := n.Data.Open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(c, 0, n.Size), c}, nil
}
