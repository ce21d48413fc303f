package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Kernel describes an ELF file. The zero value is without a note, without a
// symbol and without text, for the machine 0.
type Kernel struct {
	Machine elf.Machine
	// Note and NoteType are the name and the type of a note; QEMU looks for
	// "Xen\x00" and PVH.
	Note     string
	NoteType uint32
	// Commit is the contents of the variable gitversion.
	Commit string
	// Text is anywhere in it.
	Text string
}

// PVH is the type of the note with a kernel's entry point.
const PVH = 18

// Nanos is a kernel of Nanos that can be installed.
func Nanos() Kernel {
	return Kernel{Machine: elf.EM_X86_64, Note: "Xen\x00", NoteType: PVH, Commit: "0123456789abcdef0123456789abcdef01234567",
		Text: "WARNING: old version of TFS found (4); please upgrade"}
}

// Where the parts of a file begin, and where its memory does.
const (
	headers = 64 + 2*56
	memory  = 0x200000
)

// Bytes is the file.
func (k Kernel) Bytes() []byte {
	le := binary.LittleEndian
	note := le.AppendUint32(nil, uint32(len(k.Note)))
	note = le.AppendUint32(note, 8)
	note = le.AppendUint32(note, k.NoteType)
	note = append(note, k.Note...)
	note = append(note, make([]byte, 8)...)

	data := le.AppendUint64(nil, uint64(len(k.Commit)))
	data = le.AppendUint64(data, memory+16)
	data = append(data, k.Commit+"\x00"+k.Text...)

	strings := "\x00gitversion\x00"
	symbols := struct{ None, Version elf.Sym64 }{Version: elf.Sym64{Name: 1, Info: 0x11, Shndx: 1, Value: memory, Size: 16}}

	dataAt := uint64(headers + len(note))
	symbolsAt := dataAt + uint64(len(data))
	stringsAt := symbolsAt + 2*elf.Sym64Size
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(k.Machine), Version: 1, Phoff: 64, Shoff: stringsAt + uint64(len(strings)),
		Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64, Shnum: 4, Shstrndx: 3}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	size := uint64(len(strings))

	var b bytes.Buffer
	for _, part := range []any{
		header,
		elf.Prog64{Type: uint32(elf.PT_NOTE), Off: headers, Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Off: dataAt, Vaddr: memory, Filesz: uint64(len(data)), Memsz: uint64(len(data)), Align: 1},
		note, data, symbols, []byte(strings),
		elf.Section64{},
		elf.Section64{Type: uint32(elf.SHT_PROGBITS), Addr: memory, Off: dataAt, Size: uint64(len(data))},
		elf.Section64{Type: uint32(elf.SHT_SYMTAB), Off: symbolsAt, Size: 2 * elf.Sym64Size, Link: 3, Entsize: elf.Sym64Size},
		elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: stringsAt, Size: size},
	} {
		if err := binary.Write(&b, le, part); err != nil {
			panic(err) // the types are of a fixed size
		}
	}
	return b.Bytes()
}
