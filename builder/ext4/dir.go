package ext4

import "strings"

// maxDir bounds a directory in bytes: several million names.
const maxDir = 1 << 30

// Entry is a name in a directory.
type Entry struct {
	Name  string
	Inode uint32
}

// Entries calls f with the names of a directory, without "." and "..".
func (i *Inode) Entries(f func(Entry) error) error {
	if i.Mode&typeMask != typeDir || i.Size > maxDir {
		return bad("inode %d is no directory of at most %d bytes", i.Number, maxDir)
	}
	buf := make([]byte, blockSize)
	return i.Extents(func(e Extent) error {
		for at := int64(0); at < e.Bytes && e.Offset+at < i.Size; at += blockSize {
			if err := i.fs.block(uint64((e.Disk+at)/blockSize), buf); err != nil {
				return err
			}
			if err := i.names(buf, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// names reads one block of a directory. In a block of an index the entries are
// empty, or "." and "..".
func (i *Inode) names(b []byte, f func(Entry) error) error {
	for len(b) > 0 {
		if len(b) < 8 {
			return bad("directory %d is damaged", i.Number)
		}
		inode, length, name := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6])
		if length < 8 || length%4 != 0 || length > len(b) || 8+name > length {
			return bad("directory %d is damaged", i.Number)
		}
		if e := (Entry{string(b[8 : 8+name]), inode}); inode != 0 && e.Name != "." && e.Name != ".." {
			if name == 0 || strings.ContainsAny(e.Name, "/\x00") {
				return bad("directory %d has the name %q", i.Number, e.Name)
			}
			if err := f(e); err != nil {
				return err
			}
		}
		b = b[length:]
	}
	return nil
}
