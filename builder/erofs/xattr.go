package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	xattrHeaderSize = 12
	// maxXattrs is what the 16-bit count of 4-byte units in the inode can say.
	maxXattrs = (1<<16-2)*4 + xattrHeaderSize
	// xattrListMax is the kernel's XATTR_LIST_MAX, in bytes.
	xattrListMax = 1 << 16
)

// xattrPrefixes are the name spaces the format knows by number. A name that is
// in none of them cannot be stored.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// hostXattr says whether an attribute is the host's own business, not the
// image's: the bookkeeping of its overlayfs and its SELinux labels.
func hostXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") || name == "security.selinux"
}

// readXattrs returns a file's extended attributes as they follow its inode;
// nil for none.
func readXattrs(path string) ([]byte, error) {
	names, err := listXattrs(path)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var body []byte
	for _, name := range names {
		index, rest, ok := splitXattr(name)
		if !ok || hostXattr(name) {
			continue
		}
		value, err := getXattr(path, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: read attribute %q: %w", path, name, err)
		}
		if len(value) >= 1<<16 {
			return nil, fmt.Errorf("%s: attribute %q: %w", path, name, unix.E2BIG)
		}
		body = appendXattr(body, index, rest, value)
	}
	if len(body) == 0 {
		return nil, nil
	}
	if len(body)+xattrHeaderSize > maxXattrs {
		return nil, fmt.Errorf("%s: extended attributes: %w", path, unix.E2BIG)
	}
	return append(make([]byte, xattrHeaderSize, xattrHeaderSize+len(body)), body...), nil
}

// appendXattr appends one entry, padded to four bytes.
func appendXattr(b []byte, index byte, name string, value []byte) []byte {
	b = append(b, byte(len(name)), index)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, name...)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// listXattrs returns the sorted names; none where the file system has no
// attributes.
func listXattrs(path string) ([]string, error) {
	for buf := make([]byte, 1024); ; buf = make([]byte, xattrListMax) {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ENOTSUP) || (err == nil && n == 0):
			return nil, nil
		case errors.Is(err, unix.ERANGE) && len(buf) < xattrListMax:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "llistxattr", Path: path, Err: err}
		}
		names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
		slices.Sort(names)
		return names, nil
	}
}

func getXattr(path, name string) ([]byte, error) {
	size, err := unix.Lgetxattr(path, name, nil)
	if err != nil || size == 0 {
		return nil, err
	}
	value := make([]byte, size)
	n, err := unix.Lgetxattr(path, name, value)
	return value[:max(n, 0)], err
}
