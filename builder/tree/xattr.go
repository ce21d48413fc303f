package tree

import (
	"errors"
	"fmt"

	"containerd-shim-uni/builder/hostfs"

	"golang.org/x/sys/unix"
)

// readXattrs returns a file's extended attributes but the host's.
func readXattrs(path string) ([]Xattr, error) {
	names, err := hostfs.ListXattrs(path)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var attrs []Xattr
	for _, name := range names {
		if hostfs.HostXattr(name) {
			continue
		}
		value, err := hostfs.GetXattr(path, name)
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
