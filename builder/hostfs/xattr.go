package hostfs

import (
	"errors"
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

// ListXattrs returns the sorted names; none where the file system has no
// attributes.
func ListXattrs(path string) ([]string, error) {
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

// GetXattr returns an attribute's value.
func GetXattr(path, name string) ([]byte, error) {
	size, err := unix.Lgetxattr(path, name, nil)
	if err != nil || size == 0 {
		return nil, err
	}
	value := make([]byte, size)
	n, err := unix.Lgetxattr(path, name, value)
	return value[:max(n, 0)], err
}
