package tree

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrListMax is the kernel's XATTR_LIST_MAX, in bytes.
const xattrListMax = 1 << 16

// HostXattr says whether an attribute is the host's own business, not the
// image's: the bookkeeping of its overlayfs and its SELinux labels.
func HostXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") || name == "security.selinux"
}

// readXattrs returns a file's extended attributes but the host's.
func readXattrs(path string) ([]Xattr, error) {
	names, err := listXattrs(path)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var attrs []Xattr
	for _, name := range names {
		if HostXattr(name) {
			continue
		}
		value, err := getXattr(path, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: read attribute %q: %w", path, name, err)
		}
		attrs = append(attrs, Xattr{name, string(value)})
	}
	return attrs, nil
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
