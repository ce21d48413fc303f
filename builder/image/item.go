package image

import (
	"archive/tar"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"
)

// item is one entry of a layer, checked by itself.
type item struct {
	path string     // parts, separated by single slashes; empty is the root
	link string     // path of a hard link's target; else empty
	node *tree.Node // of a hard link what its target has from now on
}

// Limits of Linux, in bytes.
const (
	maxName = 255
	maxPath = 4096
)

const xattrRecord = "SCHILY.xattr."

func invalid(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), unikernel.ErrInvalid)
}

// newItem reads a header.
func newItem(h *tar.Header) (item, error) {
	path, err := cleanPath(h.Name)
	if err != nil {
		return item{}, err
	}
	if h.Typeflag == tar.TypeLink {
		link, err := cleanPath(h.Linkname)
		if err != nil {
			return item{}, fmt.Errorf("hard link to %.300q: %w", h.Linkname, err)
		}
		if path == "" || link == "" {
			return item{}, invalid("a hard link of the root directory")
		}
		n, err := newNode(h, unix.S_IFREG)
		return item{path, link, n}, err
	}
	kind, ok := fileTypes[h.Typeflag]
	if !ok {
		return item{}, invalid("unknown type %q", h.Typeflag)
	}
	n, err := newNode(h, kind)
	if err != nil {
		return item{}, err
	}
	if path == "" && !n.IsDir() {
		return item{}, invalid("the root is no directory")
	}
	return item{path: path, node: n}, nil
}

// cleanPath makes a path relative to the root. ".." has no place in a layer.
func cleanPath(name string) (string, error) {
	if len(name) > maxPath {
		return "", invalid("the path has %d bytes, at most %d are possible", len(name), maxPath)
	}
	if strings.Contains(name, "\x00") {
		return "", invalid("the path has a zero byte")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", invalid("the path leads upwards")
		case len(part) > maxName:
			return "", invalid("a name of %d bytes, at most %d are possible", len(part), maxName)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/"), nil
}

var fileTypes = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeCont: unix.S_IFREG, tar.TypeGNUSparse: unix.S_IFREG,
	tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeFifo: unix.S_IFIFO,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK,
}

func newNode(h *tar.Header, kind uint32) (_ *tree.Node, err error) {
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return nil, invalid("owner %d:%d", h.Uid, h.Gid)
	}
	n := &tree.Node{
		Mode: kind | uint32(h.Mode)&0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid),
		Mtime: h.ModTime.Unix(), MtimeNsec: uint32(h.ModTime.Nanosecond()),
	}
	switch {
	case n.IsFile():
		n.Size = h.Size
	case n.IsLink():
		n.Mode |= 0o777 // as Linux has it
		if n.Target = strings.Clone(h.Linkname); n.Target == "" || len(n.Target) >= maxPath || strings.Contains(n.Target, "\x00") {
			return nil, invalid("symbolic link to %.300q", h.Linkname)
		}
	case n.IsDevice():
		if h.Devmajor < 0 || h.Devmajor > 1<<12-1 || h.Devminor < 0 || h.Devminor > 1<<20-1 {
			return nil, invalid("device %d:%d", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	n.Xattrs, err = xattrs(h.PAXRecords)
	return n, err
}

// maxXattrs is what a file's attributes may have together, in bytes: Linux's
// XATTR_SIZE_MAX, which it has for one.
const maxXattrs = 64 << 10

// xattrs returns the extended attributes of PAX records, sorted. What is the
// business of the host that made the layer is left out.
func xattrs(records map[string]string) ([]tree.Xattr, error) {
	var attrs []tree.Xattr
	total := 0
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || hostfs.HostXattr(name) {
			continue
		}
		if total += len(name) + len(value); len(name) > maxName || total > maxXattrs {
			return nil, invalid("extended attributes of more than %d KiB, or a name of more than %d bytes", maxXattrs>>10, maxName)
		}
		// A copy: the record is a part of all records of its entry.
		attrs = append(attrs, tree.Xattr{Name: strings.Clone(name), Value: strings.Clone(value)})
	}
	slices.SortFunc(attrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return attrs, nil
}
