package prebuilt

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/elffile"
)

// multiboot is a kernel's multiboot header (specification 0.6.96, 3.1), as far as the
// flags say that it is valid.
type multiboot struct {
	at    int // in the file
	flags uint32
	// header, load, loadEnd, bssEnd and entry are physical addresses: of the header,
	// of what is loaded from the file, of what is zeroed behind that, of the first
	// instruction. A zero end is that of the file, or none.
	header, load, loadEnd, bssEnd, entry uint32
}

// findMultiboot looks for the header where QEMU does.
func findMultiboot(head []byte) (multiboot, bool) {
	le := binary.LittleEndian
	for at := 0; at+multibootRoom < len(head)+4 && at+12 <= len(head) && at < headSize-multibootRoom; at += 4 {
		h := head[at:]
		if le.Uint32(h) != multibootMagic || le.Uint32(h)+le.Uint32(h[4:])+le.Uint32(h[8:]) != 0 {
			continue
		}
		m := multiboot{at: at, flags: le.Uint32(h[4:])}
		if len(h) >= 32 {
			m.header, m.load, m.loadEnd, m.bssEnd, m.entry = le.Uint32(h[12:]), le.Uint32(h[16:]), le.Uint32(h[20:]), le.Uint32(h[24:]), le.Uint32(h[28:])
		}
		return m, true
	}
	return multiboot{}, false
}

// placed says that the header says where to load the file.
func (m multiboot) placed() bool { return m.flags&multibootAddresses != 0 }

// check refuses what QEMU does not load, and cannot be made to. QEMU looks at the
// flags before it looks at what the file is else.
func (m multiboot) check(image *elffile.File) error {
	switch {
	case m.placed():
		return nil
	case image != nil && image.Machine == elf.EM_X86_64 && m.placeable(image):
		return nil
	case image != nil && image.Machine == elf.EM_X86_64:
		return fmt.Errorf("it is a multiboot kernel in a 64-bit ELF file, of which QEMU loads 32-bit ones only, and its header does not say where to load it: " +
			"convert it with objcopy -O elf32-i386, if it does not read its own ELF header")
	case image == nil || image.Class != elf.ELFCLASS32 || image.Machine != elf.EM_386:
		return fmt.Errorf("it has a multiboot header, but is no 32-bit ELF file for x86, and the header does not say where to load it")
	}
	return nil
}

// placeable says that the header's addresses describe the file although the flags do
// not say so, as IncludeOS': each segment is as far behind the header in memory as it is
// in the file.
func (m multiboot) placeable(image *elffile.File) bool {
	if m.entry == 0 || m.header < m.load || int64(m.header-m.load) > int64(m.at) {
		return false
	}
	loaded := image.Loaded()
	for _, s := range loaded {
		if s.Size > 0 && int64(s.Offset)-int64(m.at) != int64(s.Physical)-int64(m.header) {
			return false
		}
		if m.loadEnd != 0 && s.Physical+s.Size > uint64(m.loadEnd) {
			return false
		}
	}
	return len(loaded) > 0
}

// A program that is put before a multiboot kernel's own entry: of its command line
// (information at EBX, specification 3.3, at 16 its address) it drops the path that
// QEMU puts before it (load_multiboot of hw/i386/multiboot.c), and the space. It
// changes no register.
//
//	add dword [ebx+16], path	81 43 10 imm32
//	jmp entry			e9 rel32
const (
	preludeSize = 12
	// preludeAlign keeps it off the line of memory that the kernel ends in.
	preludeAlign = 64
)

func prelude(path string, at, entry uint32) []byte {
	code := []byte{0x81, 0x43, 0x10}
	code = binary.LittleEndian.AppendUint32(code, uint32(len(path)+1))
	code = append(code, 0xe9)
	return binary.LittleEndian.AppendUint32(code, entry-(at+preludeSize))
}

// patch returns how the copy of a kernel at path differs from its file of size bytes:
// its command line begins with its own words, and the header of one that is placeable
// says so. ok is false for a file in which there is no room for that.
func (m multiboot) patch(image *elffile.File, size int64, path string) (_ *unikernel.Patch, ok bool) {
	if m.placed() || image.Machine == elf.EM_X86_64 {
		return m.patchPlaced(size, path)
	}
	return patchELF(image, size, path)
}

// patchPlaced changes a file that is loaded as the header says. The prelude comes
// behind what is zeroed, which therefore is in the file, as a hole.
func (m multiboot) patchPlaced(size int64, path string) (*unikernel.Patch, bool) {
	start := int64(m.at) - int64(m.header) + int64(m.load) // of what is loaded, in the file
	end := int64(m.loadEnd)
	if end == 0 {
		end = int64(m.load) + size - start
	}
	at := max(end, int64(m.bssEnd))
	at = (at + preludeAlign - 1) / preludeAlign * preludeAlign
	if start < 0 || end < int64(m.load) || start+end-int64(m.load) > size || at+preludeSize > math.MaxUint32 || at-int64(m.load) > maxPlaced {
		return nil, false
	}
	flags, stop := m.flags|multibootAddresses, uint32(at+preludeSize)
	var header []byte
	for _, v := range []uint32{multibootMagic, flags, -(multibootMagic + flags), m.header, m.load, stop, stop, uint32(at)} {
		header = binary.LittleEndian.AppendUint32(header, v)
	}
	return &unikernel.Patch{
		Keep: start + end - int64(m.load), Size: start + at - int64(m.load) + preludeSize,
		Edits: []unikernel.Edit{
			{At: int64(m.at), Data: header},
			{At: start + at - int64(m.load), Data: prelude(path, uint32(at), m.entry)},
		},
	}, true
}

// maxPlaced bounds what a header has loaded and zeroed, in bytes: QEMU allocates it.
const maxPlaced = 1 << 30

// patchELF adds a segment to a 32-bit ELF file, behind the others in memory, and a
// table of program headers that has it, at the end of the file.
func patchELF(image *elffile.File, size int64, path string) (*unikernel.Patch, bool) {
	entry, end := image.Entry, uint64(0)
	for _, s := range image.Loaded() {
		end = max(end, s.Physical+s.MemSize)
		// As QEMU's load_elf (include/hw/elf_ops.h) finds the entry's physical address.
		if s.Executable && s.Virtual != s.Physical && s.Virtual <= image.Entry && image.Entry < s.Virtual+s.Size {
			entry = image.Entry - s.Virtual + s.Physical
		}
	}
	at := (end + preludeAlign - 1) / preludeAlign * preludeAlign
	for _, s := range image.Loaded() {
		if s.Virtual != s.Physical && s.Virtual <= at && at < s.Virtual+s.Size {
			return nil, false // it would be taken for that segment's
		}
	}
	const entrySize = 32 // of a program header
	table := (size + 15) / 16 * 16
	code := table + int64(image.Programs.Count+1)*entrySize
	if at+preludeSize > math.MaxUint32 || code+preludeSize > math.MaxUint32 || image.Programs.Size != entrySize || end == 0 {
		return nil, false
	}
	old, err := image.Table()
	if err != nil {
		return nil, false
	}
	le := binary.LittleEndian
	for _, v := range []uint32{uint32(elf.PT_LOAD), uint32(code), uint32(at), uint32(at), preludeSize, preludeSize, uint32(elf.PF_R | elf.PF_X), 1} {
		old = le.AppendUint32(old, v)
	}
	return &unikernel.Patch{Keep: size, Size: code + preludeSize, Edits: []unikernel.Edit{
		{At: 24, Data: le.AppendUint32(le.AppendUint32(nil, uint32(at)), uint32(table))}, // e_entry, e_phoff
		{At: 44, Data: le.AppendUint16(nil, uint16(image.Programs.Count+1))},             // e_phnum
		{At: table, Data: old},
		{At: code, Data: prelude(path, uint32(at), uint32(entry))},
	}}, true
}
