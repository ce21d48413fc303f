package elffile

import (
	"bytes"
	"debug/elf"
	"io"
	"math"
	"slices"
)

// Dynamic returns the strings that the dynamic section of a 64-bit file has for
// some tags, in order; nothing for a file without one, or with one that makes
// no sense. Beyond 64 KiB of strings, and 4 KiB of one, nothing is returned.
func (f *File) Dynamic(tags ...elf.DynTag) map[elf.DynTag][]string {
	text, s := f.withText(elf.SHT_DYNAMIC)
	if s == nil {
		return nil
	}
	const size = 16 // of an entry: a tag and a value
	table, names := f.window(*s), f.window(*text)
	all := map[elf.DynTag][]string{}
	left := maxText
	for at := uint64(0); at < maxDynamic; at += size {
		b := table.at(at, size)
		if b == nil {
			break
		}
		tag := elf.DynTag(f.Order.Uint64(b))
		if tag == elf.DT_NULL {
			break
		}
		if !slices.Contains(tags, tag) {
			continue
		}
		name, ok := names.text(f.Order.Uint64(b[8:]))
		if left -= len(name) + 1; !ok || left < 0 {
			continue
		}
		all[tag] = append(all[tag], string(name))
	}
	return all
}

// Symbol is one of a table.
type Symbol struct {
	Name  string
	Value uint64
	// Function says that it is one, Undefined that another file has it.
	Function, Undefined bool
}

// Symbols returns those of a table of a 64-bit file, elf.SHT_DYNSYM or
// elf.SHT_SYMTAB, that have one of the names, and how many the table has
// altogether. No more than a million is looked at.
func (f *File) Symbols(kind elf.SectionType, wanted []string) (found []Symbol, count int) {
	text, s := f.withText(kind)
	if s == nil {
		return nil, 0
	}
	table, names := f.window(*s), f.window(*text)
	for at := uint64(elf.Sym64Size); count < maxSymbols; at += elf.Sym64Size { // the first is none
		b := table.at(at, elf.Sym64Size)
		if b == nil {
			break
		}
		count++
		info, value := b[4], f.Order.Uint64(b[8:])
		undefined := elf.SectionIndex(f.Order.Uint16(b[6:])) == elf.SHN_UNDEF
		name, ok := names.text(uint64(f.Order.Uint32(b)))
		if i := slices.IndexFunc(wanted, func(w string) bool { return w == string(name) }); ok && i >= 0 {
			found = append(found, Symbol{wanted[i], value, elf.ST_TYPE(info) == elf.STT_FUNC, undefined})
		}
	}
	return found, count
}

// withText returns the first section of a kind, and the one that has its
// strings; nil where one is missing.
func (f *File) withText(kind elf.SectionType) (text, s *section) {
	i := slices.IndexFunc(f.sections, func(s section) bool { return s.kind == kind })
	if i < 0 || uint64(f.sections[i].link) >= uint64(len(f.sections)) {
		return nil, nil
	}
	return &f.sections[f.sections[i].link], &f.sections[i]
}

// window shows a section by a buffer that moves over it.
type window struct {
	r      io.ReaderAt
	s      section
	b      []byte
	from   uint64 // where b is in the section
	filled int
}

// windowSize is that of a buffer, in bytes.
const windowSize = 16 << 10

func (f *File) window(s section) *window {
	if s.offset > math.MaxInt64-s.size || s.size > math.MaxInt64 {
		s.size = 0
	}
	return &window{r: f.r, s: s}
}

// at returns n bytes of the section, valid until the next call; nil where they
// are not there.
func (w *window) at(at uint64, n int) []byte {
	b := w.show(at, n)
	if len(b) < n {
		return nil
	}
	return b[:n]
}

// text returns the string at an offset; ok is false where it does not end.
func (w *window) text(at uint64) (s []byte, ok bool) {
	b := w.show(at, 1)
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		b = w.show(at, maxPath)
		end = bytes.IndexByte(b, 0)
	}
	if end < 0 || end >= maxPath {
		return nil, false
	}
	return b[:end], true
}

// show returns what follows an offset, of at least n bytes if there are so many.
func (w *window) show(at uint64, n int) []byte {
	if at >= w.s.size {
		return nil
	}
	n = int(min(uint64(n), w.s.size-at))
	if at < w.from || at+uint64(n) > w.from+uint64(w.filled) {
		if w.b == nil {
			w.b = make([]byte, min(windowSize, w.s.size))
		}
		b := w.b[:min(uint64(len(w.b)), w.s.size-at)]
		got, _ := w.r.ReadAt(b, int64(w.s.offset+at)) // what cannot be read is not there
		w.from, w.filled = at, got
	}
	return w.b[at-w.from : w.filled]
}
