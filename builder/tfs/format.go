package tfs

// Sizes in bytes, of src/config.h and src/runtime/storage.h.
const (
	sectorSize    = 512
	extensionSize = 512 << 10
	labelMax      = 32 // with its closing zero
	uuidSize      = 16

	// LogSize is the size of the area of a disk where the kernel leaves its
	// last words: "KLOG", a boot id, the exit code and text.
	LogSize = 4 << 10
)

const magic = "NVMTFS"

// Version is the only version of the format that is written and read.
const Version = 5

// Frames of the log.
const (
	frameEnd       = 1 // of the log
	frameRecord    = 2 // the first part of a record, or all of it
	framePart      = 3 // a further part
	frameEndOfPart = 4 // where an earlier end of the log was
	frameLink      = 5 // to the next extension
)

// Types of values. A value's header has the bit "immediate", the type and a
// number: a length, a count, or an index into the dictionary.
const (
	typeBuffer  = 0 // names, and nothing
	typeTuple   = 1
	typeVector  = 2
	typeInteger = 3
	typeString  = 4
)

// maxVarint is the most bytes of a varint of 64 bits.
const maxVarint = 10

// tailSize is what an extension keeps free for a link and the end of the log.
const tailSize = 1 + 2*maxVarint + 1

// Attributes of the tuples that are files.
const (
	attrChildren   = "children"
	attrExtents    = "extents"
	attrLength     = "filelength"
	attrLinkTarget = "linktarget"
	attrMtime      = "mtime" // seconds in the upper 32 bits, fraction below
	attrLinks      = "nlink"
	attrOffset     = "offset"    // of an extent on the disk, in sectors
	attrSectors    = "length"    // of an extent's data
	attrAllocated  = "allocated" // to an extent, in sectors
	attrUninited   = "uninited"  // the extent holds nothing yet
)

// appendVarint appends x in groups of 7 bits, most significant first; all but
// the last have the top bit.
func appendVarint(b []byte, x uint64) []byte {
	var tmp [maxVarint]byte
	i := maxVarint - 1
	tmp[i] = byte(x & 0x7f)
	for x >>= 7; x > 0; x >>= 7 {
		i--
		tmp[i] = byte(x&0x7f) | 0x80
	}
	return append(b, tmp[i:]...)
}

// appendHeader appends a value's header: the bit, 3 bits of type, a bit that
// says the number goes on, its upper 3 bits, and then groups of 7 bits.
func appendHeader(b []byte, immediate bool, kind byte, n uint64) []byte {
	first := kind << 4
	if immediate {
		first |= 0x80
	}
	words := 0
	for n>>(3+7*words) > 0 {
		words++
	}
	if words == 0 {
		return append(b, first|byte(n))
	}
	b = append(b, first|0x08|byte(n>>(7*words)&0x07))
	for words--; words >= 0; words-- {
		group := byte(n >> (7 * words) & 0x7f)
		if words > 0 {
			group |= 0x80
		}
		b = append(b, group)
	}
	return b
}
