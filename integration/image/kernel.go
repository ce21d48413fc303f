package image

import (
	"bytes"
	"encoding/binary"
)

// halt is code that does nothing for ever: cli; hlt; jmp to the hlt.
var halt = []byte{0xfa, 0xf4, 0xeb, 0xfd}

// HangingKernel is a kernel that does nothing at all.
func HangingKernel() []byte { return kernel(halt) }

// EndingKernel is a kernel that ends its machine as Nanos does without leaving a
// record: it writes a status to port 0x501 and pulls the keyboard controller's
// reset line. It counts for a while before, as no kernel ends at once.
func EndingKernel(status byte) []byte {
	return kernel(append([]byte{
		0xb9, 0x00, 0x00, 0x00, 0x10, 0xe2, 0xfe, // mov ecx, 1<<28; loop to itself
		0x66, 0xba, 0x01, 0x05, // mov dx, 0x501
		0xb0, status, 0xee, // mov al, status; out dx, al
		0xb0, 0xfe, 0xe6, 0x64, // mov al, 0xfe; out 0x64, al
	}, halt...))
}

// kernel is an ELF file that QEMU boots by PVH: its entry point is named by the
// note XEN_ELFNOTE_PHYS32_ENTRY, see Xen's public/elfnote.h.
func kernel(code []byte) []byte {
	const (
		headers = 64 + 2*56
		entry   = 0x100000 // physical, in 32-bit mode
		phys32  = 18       // XEN_ELFNOTE_PHYS32_ENTRY
	)
	var note bytes.Buffer
	put := func(b *bytes.Buffer, values ...any) {
		for _, v := range values {
			_ = binary.Write(b, binary.LittleEndian, v) // to memory, of fixed sizes
		}
	}
	put(&note, uint32(4), uint32(8), uint32(phys32), []byte("Xen\x00"), uint64(entry))

	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	put(&b, uint16(2), uint16(62), uint32(1), uint64(entry), uint64(64), uint64(0), // ET_EXEC, x86-64
		uint32(0), uint16(64), uint16(56), uint16(2), uint16(0), uint16(0), uint16(0))
	segment := func(kind, flags uint32, offset, at, size uint64) {
		put(&b, kind, flags, offset, at, at, size, size, uint64(4))
	}
	segment(1, 5, headers, entry, uint64(len(code)))                // PT_LOAD
	segment(4, 4, headers+uint64(len(code)), 0, uint64(note.Len())) // PT_NOTE
	b.Write(code)
	b.Write(note.Bytes())
	return b.Bytes()
}
