package prebuilt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Numbers of the ELF format (elf(5)).
const (
	machine386, machineX8664 = 3, 62
	typeNote                 = 4
	// pvhNote is XEN_ELFNOTE_PHYS32_ENTRY, of the owner "Xen"
	// (xen/include/public/elfnote.h).
	pvhNote = 18
	// maxNotes bounds the notes of an untrusted file that are read, in bytes.
	maxNotes = 1 << 20
	maxProgs = 128
)

// elfHeader is what matters here of an ELF file's header.
type elfHeader struct {
	wide     bool // 64 bits
	machine  uint16
	programs uint64 // offset of the program headers
	size     int    // of each
	count    int
}

// parseELF returns nil for what is no little-endian ELF file.
func parseELF(head []byte) *elfHeader {
	if len(head) < 64 || string(head[:4]) != "\x7fELF" || head[5] != 1 {
		return nil
	}
	le := binary.LittleEndian
	e := &elfHeader{machine: le.Uint16(head[18:])}
	switch head[4] {
	case 1:
		e.programs, e.size, e.count = uint64(le.Uint32(head[28:])), int(le.Uint16(head[42:])), int(le.Uint16(head[44:]))
	case 2:
		e.wide = true
		e.programs, e.size, e.count = le.Uint64(head[32:]), int(le.Uint16(head[54:])), int(le.Uint16(head[56:]))
	default:
		return nil
	}
	return e
}

var errTruncated = errors.New("it is a damaged ELF file: a header points behind its end")

// hasPVHNote says whether a note segment tells the address for PVH.
func (e *elfHeader) hasPVHNote(r io.ReaderAt) (bool, error) {
	entry := 32
	if e.wide {
		entry = 56
	}
	if e.count > maxProgs || (e.count > 0 && e.size < entry) {
		return false, fmt.Errorf("it is an ELF file with %d program headers of %d bytes", e.count, e.size)
	}
	le := binary.LittleEndian
	for i := range e.count {
		p, err := readAt(r, e.programs+uint64(i*e.size), entry)
		if err != nil {
			return false, err
		}
		if le.Uint32(p) != typeNote {
			continue
		}
		offset, size, align := uint64(le.Uint32(p[4:])), uint64(le.Uint32(p[16:])), uint64(le.Uint32(p[28:]))
		if e.wide {
			offset, size, align = le.Uint64(p[8:]), le.Uint64(p[32:]), le.Uint64(p[48:])
		}
		if size > maxNotes {
			return false, fmt.Errorf("it is an ELF file with notes of %d bytes", size)
		}
		notes, err := readAt(r, offset, int(size))
		if err != nil {
			return false, err
		}
		if findNote(notes, align) {
			return true, nil
		}
	}
	return false, nil
}

// findNote looks for the note among those of one segment. Each is: lengths of
// name and description, type, name, description, these two padded to 4 bytes,
// or to 8 in a segment that is aligned so.
func findNote(notes []byte, align uint64) bool {
	pad := uint64(4)
	if align == 8 {
		pad = 8
	}
	up := func(n uint64) uint64 { return (n + pad - 1) &^ (pad - 1) }
	le := binary.LittleEndian
	for len(notes) >= 12 {
		name, desc, kind := uint64(le.Uint32(notes)), uint64(le.Uint32(notes[4:])), le.Uint32(notes[8:])
		end := 12 + up(name) + up(desc)
		if 12+name > uint64(len(notes)) {
			return false
		}
		if kind == pvhNote && string(notes[12:12+name]) == "Xen\x00" {
			return true
		}
		if end > uint64(len(notes)) {
			return false
		}
		notes = notes[end:]
	}
	return false
}

func readAt(r io.ReaderAt, at uint64, n int) ([]byte, error) {
	if at > 1<<62 {
		return nil, errTruncated
	}
	b := make([]byte, n)
	if got, err := r.ReadAt(b, int64(at)); got < n {
		if errors.Is(err, io.EOF) {
			return nil, errTruncated
		}
		return nil, err
	}
	return b, nil
}
