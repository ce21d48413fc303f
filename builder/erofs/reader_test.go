package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// image reads a file system back by the kernel's documentation alone; it shares
// no code with the writer.
type image []byte

type inode struct {
	nid        uint64
	mode       uint16
	size       uint64
	union      uint32
	uid, gid   uint32
	mtime      int64
	nsec       uint32
	nlink      uint32
	xattrs     map[string]string
	inlineAt   uint64 // offset of inline data, 0 for none
	wholeBytes uint64
}

func (im image) super() (rootNID uint64, inodes uint64, blocks uint32, err error) {
	le := binary.LittleEndian
	if len(im) < 4096 || len(im)%4096 != 0 {
		return 0, 0, 0, fmt.Errorf("image has %d bytes", len(im))
	}
	sb := slices.Clone(im[1024:4096])
	if le.Uint32(sb) != 0xE0F5E1E2 || sb[12] != 12 || le.Uint32(sb[80:]) != 0 {
		return 0, 0, 0, fmt.Errorf("superblock % x", sb[:128])
	}
	sum := le.Uint32(sb[4:])
	clear(sb[4:8])
	if got := ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli)); got != sum {
		return 0, 0, 0, fmt.Errorf("checksum %#x, computed %#x", sum, got)
	}
	return uint64(le.Uint16(sb[14:])), le.Uint64(sb[16:]), le.Uint32(sb[36:]), nil
}

func (im image) inode(nid uint64) (inode, error) {
	le := binary.LittleEndian
	at := nid * 32
	if at+64 > uint64(len(im)) {
		return inode{}, fmt.Errorf("nid %d is outside", nid)
	}
	b := im[at:]
	format := le.Uint16(b)
	if format&1 != 1 {
		return inode{}, fmt.Errorf("nid %d: format %#x", nid, format)
	}
	n := inode{
		nid: nid, mode: le.Uint16(b[4:]), size: le.Uint64(b[8:]), union: le.Uint32(b[16:]),
		uid: le.Uint32(b[24:]), gid: le.Uint32(b[28:]),
		mtime: int64(le.Uint64(b[32:])), nsec: le.Uint32(b[40:]), nlink: le.Uint32(b[44:]),
		xattrs: map[string]string{},
	}
	end := at + 64
	if count := uint64(le.Uint16(b[2:])); count > 0 {
		size := 12 + (count-1)*4
		if err := n.readXattrs(b[64:][:size]); err != nil {
			return inode{}, fmt.Errorf("nid %d: %w", nid, err)
		}
		end += size
	}
	n.wholeBytes = n.size
	switch format >> 1 & 7 {
	case 2:
		n.wholeBytes = n.size / 4096 * 4096
		n.inlineAt = end
		if tail := n.size % 4096; tail == 0 || end/4096 != (end+tail-1)/4096 {
			return inode{}, fmt.Errorf("nid %d: %d bytes of inline data at %d cross a block", nid, tail, end)
		}
	case 0:
	default:
		return inode{}, fmt.Errorf("nid %d: layout of format %#x", nid, format)
	}
	return n, nil
}

func (n *inode) readXattrs(b []byte) error {
	prefixes := map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}
	for b = b[12:]; len(b) > 0; {
		nameLen, valueLen := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		prefix, ok := prefixes[b[1]]
		size := (4 + nameLen + valueLen + 3) / 4 * 4
		if !ok || size > len(b) {
			return fmt.Errorf("attribute % x", b[:4])
		}
		n.xattrs[prefix+string(b[4:4+nameLen])] = string(b[4+nameLen : 4+nameLen+valueLen])
		b = b[size:]
	}
	return nil
}

func (im image) data(n inode) []byte {
	out := make([]byte, 0, n.size)
	start := uint64(n.union) * 4096
	out = append(out, im[start:start+n.wholeBytes]...)
	return append(out, im[n.inlineAt:n.inlineAt+n.size-n.wholeBytes]...)
}

// dir returns names to nids and checks that the names are in order, as the
// kernel's binary search needs.
func (im image) dir(n inode) (map[string]uint64, error) {
	le := binary.LittleEndian
	out := map[string]uint64{}
	last := ""
	for block := range slices.Chunk(im.data(n), 4096) {
		count := int(le.Uint16(block[8:])) / 12
		for i := range count {
			d := block[12*i:]
			start, end := int(le.Uint16(d[8:])), len(block)
			if i+1 < count {
				end = int(le.Uint16(block[12*(i+1)+8:]))
			}
			name := block[start:end]
			if z := bytes.IndexByte(name, 0); i+1 == count && z >= 0 {
				name = name[:z]
			}
			if last != "" && strings.Compare(last, string(name)) >= 0 {
				return nil, fmt.Errorf("%q follows %q", name, last)
			}
			last = string(name)
			kid, err := im.inode(le.Uint64(d))
			if err != nil {
				return nil, fmt.Errorf("%q: %w", name, err)
			}
			types := map[uint16]byte{0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}
			if types[kid.mode&0o170000] != d[10] {
				return nil, fmt.Errorf("%q: type %d of mode %#o", name, d[10], kid.mode)
			}
			out[last] = kid.nid
		}
	}
	return out, nil
}
