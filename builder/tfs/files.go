package tfs

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// File is one file of a file system.
type File struct {
	fs *FS
	t  *Tuple
}

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// Top returns the root directory.
func (f *FS) Top() File { return File{f, f.Root} }

// IsDir, IsRegular and Target say what a file is; Target is where a symbolic
// link leads.
func (f File) IsDir() bool     { return f.t.child(attrChildren) != nil }
func (f File) IsRegular() bool { return f.t.child(attrExtents) != nil }
func (f File) Target() (string, bool) {
	return f.t.text(attrLinkTarget)
}

// Same says whether two files are one with two names.
func (f File) Same(g File) bool { return f.t == g.t }

// Mtime is the time of the last change in seconds and nanoseconds of Unix.
func (f File) Mtime() (sec, nsec int64) {
	v, _ := f.t.integer(attrMtime)
	return int64(v >> 32), int64((v&(1<<32-1))*1e9) >> 32
}

// Xattrs returns the extended attributes.
func (f File) Xattrs() map[string]string {
	list := map[string]string{}
	f.t.all(func(name string, v any) {
		if s, ok := v.(string); ok && strings.Contains(name, ".") {
			list[name] = s
		}
	})
	return list
}

// Names returns the sorted names in a directory.
func (f File) Names() []string {
	dir := f.t.child(attrChildren)
	if dir == nil {
		return nil
	}
	var list []string
	dir.all(func(name string, v any) {
		if _, ok := v.(*Tuple); ok {
			list = append(list, name)
		}
	})
	slices.Sort(list)
	return list
}

// Child returns the file of one name in a directory.
func (f File) Child(name string) (File, bool) {
	dir := f.t.child(attrChildren)
	if dir == nil {
		return File{}, false
	}
	t := dir.child(name)
	return File{f.fs, t}, t != nil
}

// Lookup returns the file at a path, which is taken from the root, through
// symbolic links. Errors wrap fs.ErrNotExist, ENOTDIR or ELOOP.
func (f *FS) Lookup(path string) (File, error) {
	at := []File{f.Top()}
	rest := strings.Split(path, "/")
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		here := at[len(at)-1]
		if name == "" {
			continue
		}
		if !here.IsDir() {
			return File{}, fmt.Errorf("%s: %w", path, unix.ENOTDIR)
		}
		if name == "." {
			continue
		}
		if name == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		next, ok := here.Child(name)
		if !ok {
			return File{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		target, isLink := next.Target()
		if !isLink {
			at = append(at, next)
			continue
		}
		if links++; links > maxLinks {
			return File{}, fmt.Errorf("%s: %w", path, unix.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			at = at[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at[len(at)-1], nil
}

// Size is the length of a regular file in bytes.
func (f File) Size() int64 {
	n, _ := f.t.integer(attrLength)
	return int64(min(n, 1<<62))
}

// Open implements tree.Opener: it opens a regular file. Errors, also of reading,
// wrap ErrFormat for extents that make no sense.
func (f File) Open() (tree.Content, error) { return f.content() }

// Reader reads a regular file from its start.
func (f File) Reader() (io.Reader, error) {
	c, err := f.content()
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(c, 0, c.size), nil
}
