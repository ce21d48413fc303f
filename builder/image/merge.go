package image

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// Names of layer.md that are not files.
const (
	whiteout     = ".wh."
	whiteoutMeta = ".wh..wh."
	opaque       = ".wh..wh..opq"
)

// merger applies layers to a tree in memory.
type merger struct {
	root  *inode
	layer int // the one that is applied
	files int
}

// inode is one of the tree; several names may have it.
type inode struct {
	*tree.Node
	kids map[string]dirent // of a directory
}

// dirent is an entry, and the last layer that had it.
type dirent struct {
	*inode
	layer int
}

// Bounds of a tree: what keeps a hostile image from taking all memory.
const (
	maxFiles = 16 << 20
	maxDepth = 2048 // what one path of maxPath can say
)

func newMerger() *merger {
	return &merger{root: &inode{&tree.Node{Mode: unix.S_IFDIR | 0o755}, map[string]dirent{}}}
}

// apply applies one layer's entries.
func (m *merger) apply(items []item) error {
	m.layer++
	for _, it := range items {
		if err := m.item(it); err != nil {
			what := it.path
			if it.link != "" {
				what += " -> " + it.link
			}
			return fmt.Errorf("entry %.300q: %w", what, err)
		}
	}
	return nil
}

func (m *merger) item(it item) error {
	if it.link == "" { // a layer can be applied more than once
		n := *it.node
		it.node = &n
	}
	if it.path == "" {
		m.root.Node = it.node
		return nil
	}
	dirPath, base := split(it.path)
	for part := range strings.SplitSeq(dirPath, "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return nil // bookkeeping of aufs
		}
		if strings.HasPrefix(part, whiteout) {
			return invalid("a whiteout is no directory")
		}
	}
	if strings.HasPrefix(base, whiteout) {
		return m.whiteout(dirPath, base)
	}
	dir, depth, err := m.dir(dirPath, true)
	if err != nil {
		return err
	}
	if it.link != "" {
		return m.hardLink(dir, base, it.link, it.node)
	}
	if old, ok := dir.kids[base]; ok && it.node.IsDir() && old.IsDir() {
		old.Node = it.node // its entries stay
		dir.kids[base] = dirent{old.inode, m.layer}
		return nil
	}
	if depth+1 > maxDepth {
		return invalid("more than %d directories in each other", maxDepth)
	}
	f := &inode{Node: it.node}
	if it.node.IsDir() {
		f.kids = map[string]dirent{}
	}
	return m.put(dir, base, f)
}

func split(path string) (dir, base string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

func (m *merger) put(dir *inode, base string, f *inode) error {
	if m.files++; m.files > maxFiles {
		return invalid("more than %d files", maxFiles)
	}
	dir.kids[base] = dirent{f, m.layer}
	return nil
}

// hardLink gives a file another name. The target may be of an earlier layer; what
// the entry says of owner, mode and time is the file's from now on, as by
// containerd.
func (m *merger) hardLink(dir *inode, base, link string, n *tree.Node) error {
	targetDir, targetBase := split(link)
	from, _, err := m.dir(targetDir, false)
	if err != nil {
		return invalid("no target: %v", err)
	}
	target, ok := from.kids[targetBase]
	switch {
	case !ok:
		return invalid("no target")
	case target.IsDir():
		return invalid("the target is a directory")
	}
	if !target.IsLink() {
		target.Mode = target.Type() | n.Mode&0o7777
	}
	target.UID, target.GID, target.Mtime, target.MtimeNsec = n.UID, n.GID, n.Mtime, n.MtimeNsec
	return m.put(dir, base, target.inode)
}

// whiteout removes what earlier layers had; what this one has stays, wherever
// the whiteout is in it.
func (m *merger) whiteout(dirPath, base string) error {
	if strings.HasPrefix(base, whiteoutMeta) && base != opaque {
		return nil
	}
	victim := strings.TrimPrefix(base, whiteout)
	if victim == "" || victim == "." || victim == ".." {
		return invalid("a whiteout of nothing")
	}
	// The directory is made, as containerd does it, and every client with it.
	dir, _, err := m.dir(dirPath, true)
	if err != nil {
		return nil // there is nothing to hide
	}
	if base == opaque {
		m.hideKids(dir)
		return nil
	}
	if old, ok := dir.kids[victim]; ok && !m.hide(old) {
		delete(dir.kids, victim)
	}
	return nil
}

// hide removes what earlier layers had at and below n; it reports whether n
// stays.
func (m *merger) hide(n dirent) bool {
	if n.IsDir() {
		m.hideKids(n.inode)
	}
	return n.layer == m.layer || len(n.kids) > 0
}

func (m *merger) hideKids(dir *inode) {
	for base, kid := range dir.kids {
		if !m.hide(kid) {
			delete(dir.kids, base)
		}
	}
}

// maxLinks is how many symbolic links are followed in one path.
const maxLinks = 40

// dir finds a directory as a process in the image would: through symbolic
// links, never above the root. With create, missing directories are made, as
// whoever unpacks a layer does.
func (m *merger) dir(path string, create bool) (_ *inode, depth int, err error) {
	stack := []*inode{m.root}
	todo := parts(path)
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			stack = stack[:max(len(stack)-1, 1)]
			continue
		}
		here := stack[len(stack)-1]
		kid, ok := here.kids[part]
		switch {
		case !ok && !create:
			return nil, 0, unix.ENOENT
		case !ok:
			if len(stack) > maxDepth || len(part) > maxName {
				return nil, 0, invalid("a name or path is too long")
			}
			made := &inode{&tree.Node{Mode: unix.S_IFDIR | 0o755}, map[string]dirent{}}
			if err := m.put(here, part, made); err != nil {
				return nil, 0, err
			}
			stack = append(stack, made)
		case kid.IsDir():
			stack = append(stack, kid.inode)
		case kid.IsLink():
			if links++; links > maxLinks {
				return nil, 0, invalid("too many symbolic links on the way")
			}
			if strings.HasPrefix(kid.Target, "/") {
				stack = stack[:1]
			}
			todo = slices.Concat(parts(kid.Target), todo)
		default:
			return nil, 0, invalid("%.300q on the way is no directory", part)
		}
	}
	return stack[len(stack)-1], len(stack) - 1, nil
}

// parts are the elements of a path that lead somewhere.
func parts(path string) []string {
	all := strings.Split(path, "/")
	return slices.DeleteFunc(all, func(s string) bool { return s == "" || s == "." })
}

// tree returns the finished tree.
func (m *merger) tree() *tree.Node {
	m.finish(m.root)
	return m.root.Node
}

func (m *merger) finish(f *inode) {
	f.Entries = make([]tree.Entry, 0, len(f.kids))
	for base, kid := range f.kids {
		f.Entries = append(f.Entries, tree.Entry{Name: base, Node: kid.Node})
	}
	slices.SortFunc(f.Entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range f.Entries {
		kid := f.kids[e.Name]
		if kid.IsDir() {
			m.finish(kid.inode)
		} else {
			kid.Links++
		}
	}
	f.kids = nil
}
