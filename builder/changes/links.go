package changes

import (
	"fmt"
	"os"

	"containerd-shim-uni/builder/ext4"
	"containerd-shim-uni/builder/hostfs"

	"golang.org/x/sys/unix"
)

// maxLinked bounds the files that are remembered because they have further names:
// some 200 MB of memory.
const maxLinked = 1 << 20

// linked is a file that has further names.
type linked struct {
	first *hostfs.Way
	more  uint32 // names that are to come
}

// link makes a further name of a file that is there already.
func (c *carrier) link(dir int, name string, way *hostfs.Way, i *ext4.Inode) (bool, error) {
	known := c.linked[i.Number]
	if known == nil {
		if err := c.meet(i); err != nil {
			return false, err
		}
		if i.Links > 1 {
			if len(c.linked) >= maxLinked {
				return false, fmt.Errorf("%w: more than %d files with several names", ErrTooMuch, maxLinked)
			}
			c.linked[i.Number] = &linked{way, i.Links - 1}
		}
		return false, nil
	}
	// No name on the way is that of a link: they are directories made here.
	err := hostfs.At(c.top, known.first.String(), func(top int, first string) error {
		return os.NewSyscallError("link", unix.Linkat(top, first, dir, name, 0))
	})
	if err != nil {
		return false, err
	}
	if known.more--; known.more == 0 {
		delete(c.linked, i.Number)
	}
	return true, nil
}

// inodes is a set of numbers of inodes. They lie close together, and what is kept of
// them takes less room than they on the disk.
type inodes map[uint32]*[64]uint64

// add adds a number, and says whether it was missing.
func (s inodes) add(n uint32) bool {
	const page = 64 * 64
	p := s[n/page]
	if p == nil {
		p = new([64]uint64)
		s[n/page] = p
	}
	word, bit := &p[n%page/64], uint64(1)<<(n%64)
	missing := *word&bit == 0
	*word |= bit
	return missing
}
