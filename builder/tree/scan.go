package tree

import (
	"context"
	"fmt"
	"os"

	"containerd-shim-uni/builder/hostfs"

	"golang.org/x/sys/unix"
)

// Scan reads the metadata of everything below a directory of the host. Files'
// contents are read when they are opened; nothing may change meanwhile, and a
// file whose size does is ErrChanged. What belongs to the host is left out, see
// hostfs.HostXattr. More than a tree may have (Meter) is ErrTooLarge.
func Scan(ctx context.Context, dir string) (*Node, error) {
	s := scanner{top: dir, links: map[[2]uint64]*Node{}}
	root, err := s.add(dir, nil)
	if err != nil {
		return nil, err
	}
	if !root.IsDir() {
		return nil, fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
	}
	return root, s.fill(ctx, dir, nil, root)
}

// File reads the metadata of one regular file of the host, under the rules of
// Scan.
func File(path string) (*Node, error) {
	s := scanner{top: path}
	n, err := s.add(path, nil)
	if err == nil && !n.IsFile() {
		return nil, fmt.Errorf("%s: is no regular file", path)
	}
	return n, err
}

type scanner struct {
	top   string
	links map[[2]uint64]*Node // files with several names, by device and inode
	meter Meter
}

// fill reads the entries of directory n, to which way leads, and theirs.
func (s *scanner) fill(ctx context.Context, path string, way *hostfs.Way, n *Node) error {
	return hostfs.EachIn(ctx, path, way.Depth(), func(path, name string) error {
		below := way.To(name)
		kid, err := s.add(path, below)
		if err != nil {
			return err
		}
		if err := s.meter.Name(name); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		n.Entries = append(n.Entries, Entry{name, kid})
		if kid.IsDir() {
			return s.fill(ctx, path, below, kid)
		}
		return nil
	})
}

// add returns the node of a file: a new one, or the one of an earlier name.
func (s *scanner) add(path string, way *hostfs.Way) (*Node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	linked := st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR
	id := [2]uint64{uint64(st.Dev), st.Ino}
	if first := s.links[id]; linked && first != nil {
		first.Links++
		return first, nil
	}
	n, err := newNode(path, &st)
	if err != nil {
		return nil, err
	}
	if n.Size > 0 {
		n.Data = hostFile{s.top, way, n.Size}
	}
	if err := s.meter.Node(n); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if linked && s.links != nil {
		s.links[id] = n
	}
	return n, nil
}

func newNode(path string, st *unix.Stat_t) (*Node, error) {
	n := &Node{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Links: 1,
		Mtime: st.Mtim.Sec, MtimeNsec: uint32(st.Mtim.Nsec),
	}
	switch {
	case n.IsFile():
		n.Size = st.Size
	case n.IsLink():
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		n.Target = target
	case n.IsDevice():
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	var err error
	n.Xattrs, err = readXattrs(path)
	return n, err
}

// hostFile opens a regular file of the host that had size bytes: the one to which
// a way leads from the top.
type hostFile struct {
	top  string
	way  *hostfs.Way
	size int64
}

func (h hostFile) path() string {
	if h.way == nil {
		return h.top
	}
	return h.top + "/" + h.way.String()
}

func (h hostFile) Open() (Content, error) {
	f, err := hostfs.Open(h.path())
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != h.size {
		err = fmt.Errorf("%s: %w", h.path(), ErrChanged)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return hostContent{f}, nil
}

type hostContent struct{ *os.File }

func (c hostContent) NextData(pos, size int64) (start, end int64, err error) {
	return hostfs.NextData(c.File, pos, size)
}
