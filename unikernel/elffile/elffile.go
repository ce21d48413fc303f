package elffile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrFormat is for what is no ELF file, or a damaged one.
var ErrFormat = errors.New("not a readable ELF file")

// ErrTruncated is the ErrFormat of a file that points behind its end.
var ErrTruncated = fmt.Errorf("%w: a header points behind its end", ErrFormat)

// Bounds of what is read, in bytes but for counts.
const (
	// maxPrograms is Linux's own bound of the table of program headers
	// (load_elf_phdrs in fs/binfmt_elf.c).
	maxPrograms = 64 << 10
	// maxSections bounds the table of section headers, which programs run
	// without: of a larger one nothing is read. Programs have some 40 sections of
	// 64 bytes.
	maxSections = 64 << 10
	maxNotes    = 64 << 10
	maxDynamic  = 64 << 10 // of the dynamic section, 4096 entries
	maxText     = 64 << 10 // of all strings that one dynamic section names
	maxPath     = 4096     // of one string, Linux's PATH_MAX
	maxSymbols  = 1 << 20  // symbols of one table that are looked at
)

// File is an ELF file.
type File struct {
	Class   elf.Class
	Machine elf.Machine
	Order   binary.ByteOrder
	// Entry is the address at which it starts.
	Entry uint64
	// Programs is where the table of program headers is: its offset, the size of an
	// entry and the number of them.
	Programs struct {
		At          uint64
		Size, Count int
	}

	r        io.ReaderAt
	programs []program
	sections []section
}

// program is a program header, section a section header, as far as they matter.
type program struct {
	kind                       elf.ProgType
	offset, vaddr, size, align uint64 // size is that in the file
	paddr, memory              uint64
	flags                      elf.ProgFlag
}

// Segment is a part of the file that is loaded.
type Segment struct {
	// Offset is where it is in the file, Size how many bytes are of it there. In
	// memory it has MemSize.
	Offset, Size, MemSize uint64
	// Virtual and Physical are its addresses.
	Virtual, Physical uint64
	Executable        bool
}

// Table returns the table of program headers as it is in the file.
func (f *File) Table() ([]byte, error) {
	if n := f.Programs.Size * f.Programs.Count; n <= maxPrograms {
		return f.read(f.Programs.At, n)
	}
	return nil, ErrFormat
}

// Loaded returns the segments that are loaded, in the file's order.
func (f *File) Loaded() []Segment {
	var all []Segment
	for _, p := range f.programs {
		if p.kind == elf.PT_LOAD {
			all = append(all, Segment{p.offset, p.size, p.memory, p.vaddr, p.paddr, p.flags&elf.PF_X != 0})
		}
	}
	return all
}

type section struct {
	kind         elf.SectionType
	offset, size uint64
	link         uint32
}

// Open reads the headers. The error is an ErrFormat, or one of reading.
func Open(r io.ReaderAt) (*File, error) {
	h := make([]byte, 64)
	n, err := r.ReadAt(h, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < 52 || string(h[:4]) != elf.ELFMAG {
		return nil, fmt.Errorf("%w: no ELF header", ErrFormat)
	}
	f := &File{r: r, Class: elf.Class(h[elf.EI_CLASS])}
	switch elf.Data(h[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
		f.Order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		f.Order = binary.BigEndian
	default:
		return nil, fmt.Errorf("%w: unknown byte order %d", ErrFormat, h[elf.EI_DATA])
	}
	f.Machine = elf.Machine(f.Order.Uint16(h[18:]))
	// Where the tables are, and how many entries of which size they have.
	var phoff, shoff uint64
	var counts []byte
	switch {
	case f.Class == elf.ELFCLASS32:
		f.Entry = uint64(f.Order.Uint32(h[24:]))
		phoff, shoff, counts = uint64(f.Order.Uint32(h[28:])), uint64(f.Order.Uint32(h[32:])), h[42:]
	case f.Class == elf.ELFCLASS64 && n == len(h):
		f.Entry = f.Order.Uint64(h[24:])
		phoff, shoff, counts = f.Order.Uint64(h[32:]), f.Order.Uint64(h[40:]), h[54:]
	default:
		return nil, fmt.Errorf("%w: class %d, %d bytes", ErrFormat, h[elf.EI_CLASS], n)
	}
	field := func(at int) int { return int(f.Order.Uint16(counts[at:])) }
	f.Programs.At, f.Programs.Size, f.Programs.Count = phoff, field(0), field(2)
	if err := f.readPrograms(phoff, field(0), field(2)); err != nil {
		return nil, err
	}
	// A file runs whatever is wrong with its sections.
	if err := f.readSections(shoff, field(4), field(6)); err != nil && !errors.Is(err, ErrFormat) {
		return nil, err
	}
	return f, nil
}

// table reads a table of count entries of size bytes, of which least are known.
func (f *File) table(at uint64, size, count, least, most int) ([]byte, error) {
	if count == 0 {
		return nil, nil
	}
	if size < least || size*count > most {
		return nil, fmt.Errorf("%w: %d headers of %d bytes", ErrFormat, count, size)
	}
	return f.read(at, size*count)
}

// read returns n bytes at an offset.
func (f *File) read(at uint64, n int) ([]byte, error) {
	if at > math.MaxInt64-uint64(n) {
		return nil, ErrTruncated
	}
	b := make([]byte, n)
	if got, err := f.r.ReadAt(b, int64(at)); got < n {
		if errors.Is(err, io.EOF) {
			return nil, ErrTruncated
		}
		return nil, err
	}
	return b, nil
}

func (f *File) wide() bool { return f.Class == elf.ELFCLASS64 }

func (f *File) readPrograms(at uint64, size, count int) error {
	least := 32
	if f.wide() {
		least = 56
	}
	b, err := f.table(at, size, count, least, maxPrograms)
	for ; len(b) > 0; b = b[size:] {
		p := program{kind: elf.ProgType(f.Order.Uint32(b))}
		if f.wide() {
			p.offset, p.vaddr, p.size, p.align = f.Order.Uint64(b[8:]), f.Order.Uint64(b[16:]), f.Order.Uint64(b[32:]), f.Order.Uint64(b[48:])
			p.paddr, p.memory, p.flags = f.Order.Uint64(b[24:]), f.Order.Uint64(b[40:]), elf.ProgFlag(f.Order.Uint32(b[4:]))
		} else {
			word := func(at int) uint64 { return uint64(f.Order.Uint32(b[at:])) }
			p.offset, p.vaddr, p.size, p.align = word(4), word(8), word(16), word(28)
			p.paddr, p.memory, p.flags = word(12), word(20), elf.ProgFlag(word(24))
		}
		f.programs = append(f.programs, p)
	}
	return err
}

// readSections reads those of 64 bits; nobody asks for others.
func (f *File) readSections(at uint64, size, count int) error {
	if !f.wide() {
		return nil
	}
	b, err := f.table(at, size, count, 64, maxSections)
	for ; len(b) > 0; b = b[size:] {
		f.sections = append(f.sections, section{
			kind: elf.SectionType(f.Order.Uint32(b[4:])), offset: f.Order.Uint64(b[24:]), size: f.Order.Uint64(b[32:]), link: f.Order.Uint32(b[40:]),
		})
	}
	return err
}

// Interpreter is the dynamic loader that a program names; empty for none.
func (f *File) Interpreter() string {
	for _, p := range f.programs {
		if p.kind != elf.PT_INTERP || p.size > maxPath {
			continue
		}
		b, err := f.read(p.offset, int(p.size))
		if err != nil {
			return ""
		}
		return string(bytes.TrimRight(b, "\x00"))
	}
	return ""
}

// Memory returns the size bytes, at most 4096, that a program has at an address
// when it starts; nil for nothing.
func (f *File) Memory(at, size uint64) []byte {
	for _, p := range f.programs {
		if p.kind != elf.PT_LOAD || at < p.vaddr || at-p.vaddr > p.size || p.size-(at-p.vaddr) < size || size > maxPath {
			continue
		}
		if b, err := f.read(p.offset+at-p.vaddr, int(size)); err == nil {
			return b
		}
	}
	return nil
}

// HasNote says whether a segment of notes has one of an owner and a type, with the errors
// of Note.
func (f *File) HasNote(owner string, kind uint32) (bool, error) {
	_, ok, err := f.Note(owner, kind)
	return ok, err
}

// Note returns the description of the first note of an owner and a type; nothing of one
// that is cut off. Notes of more than 64 KiB are an ErrFormat, segments that are cut
// off ErrTruncated.
func (f *File) Note(owner string, kind uint32) (desc []byte, ok bool, err error) {
	for _, p := range f.programs {
		if p.kind != elf.PT_NOTE {
			continue
		}
		if p.size > maxNotes {
			return nil, false, fmt.Errorf("%w: notes of %d bytes", ErrFormat, p.size)
		}
		b, err := f.read(p.offset, int(p.size))
		if err != nil {
			return nil, false, err
		}
		if desc, ok := f.findNote(b, p.align, owner+"\x00", kind); ok {
			return desc, true, nil
		}
	}
	return nil, false, nil
}

// findNote looks for a note among those of one segment. Each is: lengths of
// name and description, type, name, description, these two padded to 4 bytes,
// or to 8 in a segment that is aligned so.
func (f *File) findNote(notes []byte, align uint64, owner string, want uint32) ([]byte, bool) {
	pad := uint64(4)
	if align == 8 {
		pad = 8
	}
	up := func(n uint64) uint64 { return (n + pad - 1) &^ (pad - 1) }
	for len(notes) >= 12 {
		name, desc, kind := uint64(f.Order.Uint32(notes)), uint64(f.Order.Uint32(notes[4:])), f.Order.Uint32(notes[8:])
		start := 12 + up(name)
		end := start + up(desc)
		if 12+name > uint64(len(notes)) {
			return nil, false
		}
		if kind == want && string(notes[12:12+name]) == owner {
			if start+desc > uint64(len(notes)) {
				return nil, true
			}
			return notes[start : start+desc], true
		}
		if end > uint64(len(notes)) {
			return nil, false
		}
		notes = notes[end:]
	}
	return nil, false
}
