package erofs

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

const (
	xattrHeaderSize = 12
	// maxXattrs is what the 16-bit count of 4-byte units in the inode can say.
	maxXattrs = (1<<16-2)*4 + xattrHeaderSize
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

// encodeXattrs returns extended attributes as they follow an inode; nil for
// none. Names of unknown spaces are left out.
func encodeXattrs(attrs []tree.Xattr) ([]byte, error) {
	var body []byte
	for _, a := range attrs {
		index, rest, ok := splitXattr(a.Name)
		if !ok {
			continue
		}
		if len(rest) >= 1<<8 || len(a.Value) >= 1<<16 {
			return nil, fmt.Errorf("attribute %.300q: %w", a.Name, unix.E2BIG)
		}
		body = appendXattr(body, index, rest, a.Value)
	}
	if len(body) == 0 {
		return nil, nil
	}
	if len(body)+xattrHeaderSize > maxXattrs {
		return nil, fmt.Errorf("extended attributes: %w", unix.E2BIG)
	}
	return append(make([]byte, xattrHeaderSize, xattrHeaderSize+len(body)), body...), nil
}

// appendXattr appends one entry, padded to four bytes.
func appendXattr(b []byte, index byte, name, value string) []byte {
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
