package kernels

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	"containerd-shim-uni/unikernel"
)

// CheckPVH says whether QEMU can enter a kernel directly: an ELF file for
// x86-64 with a PVH entry point. The error is unikernel.ErrInvalid otherwise.
func CheckPVH(kernel io.ReaderAt) error {
	_, err := openPVH(kernel)
	return err
}

func openPVH(kernel io.ReaderAt) (*elf.File, error) {
	if isARM64Image(kernel) {
		return nil, invalid("it is for arm64, and only x86-64 is supported")
	}
	image, err := elf.NewFile(kernel)
	if err != nil {
		return nil, fmt.Errorf("it is no ELF file: %w: %w", unikernel.ErrInvalid, err)
	}
	if image.Machine != elf.EM_X86_64 || image.Class != elf.ELFCLASS64 {
		return nil, invalid("it is for %v (%v), and only x86-64 is supported", image.Machine, image.Class)
	}
	for _, p := range image.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return nil, fmt.Errorf("read notes: %w: %w", unikernel.ErrInvalid, err)
		}
		if hasNote(notes, "Xen\x00", phys32Entry) {
			return image, nil
		}
	}
	return nil, invalid("it has no PVH entry point")
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", unikernel.ErrInvalid, fmt.Sprintf(format, args...))
}

// isARM64Image recognises the header that boot loaders of arm64 look for: "ARM\x64"
// at byte 56 (Linux, Documentation/arch/arm64/booting.rst). Nanos has it too.
func isARM64Image(kernel io.ReaderAt) bool {
	magic := make([]byte, 4)
	_, err := kernel.ReadAt(magic, 56)
	return err == nil && string(magic) == "ARM\x64"
}

// phys32Entry is the type of the ELF note that says where a kernel is entered
// by PVH boot: XEN_ELFNOTE_PHYS32_ENTRY of Xen's public/elfnote.h.
const phys32Entry = 18

// hasNote walks ELF notes: sizes of name and description, type, then both,
// each padded to four bytes.
func hasNote(data []byte, name string, kind uint32) bool {
	for len(data) >= 12 {
		le := binary.LittleEndian
		nameSize, descSize, typ := uint64(le.Uint32(data)), uint64(le.Uint32(data[4:])), le.Uint32(data[8:])
		total := 12 + (nameSize+3)/4*4 + (descSize+3)/4*4
		if 12+nameSize > uint64(len(data)) {
			return false
		}
		if typ == kind && bytes.Equal(data[12:12+nameSize], []byte(name)) {
			return true
		}
		if total > uint64(len(data)) {
			return false
		}
		data = data[total:]
	}
	return false
}

// commit returns the source revision that a Nanos kernel was built from, empty
// if it does not say: the variable gitversion (kernel.mk:95), which is a length
// and an address of 8 bytes each. Kernels keep their symbols.
func commit(kernel *elf.File) string {
	symbols, err := kernel.Symbols()
	if err != nil {
		return ""
	}
	for _, s := range symbols {
		if s.Name != "gitversion" {
			continue
		}
		header := readMemory(kernel, s.Value, 16)
		if header == nil {
			return ""
		}
		size, at := binary.LittleEndian.Uint64(header), binary.LittleEndian.Uint64(header[8:])
		if size != 40 && size != 64 { // hexadecimal digits of a SHA-1 or SHA-256
			return ""
		}
		if text := readMemory(kernel, at, size); isHex(string(text)) {
			return string(text)
		}
	}
	return ""
}

// readMemory returns what a kernel has at an address when it starts, nil for
// nothing.
func readMemory(kernel *elf.File, at, size uint64) []byte {
	for _, p := range kernel.Progs {
		if p.Type != elf.PT_LOAD || at < p.Vaddr || at-p.Vaddr > p.Filesz || p.Filesz-(at-p.Vaddr) < size {
			continue
		}
		data := make([]byte, size)
		if _, err := p.ReadAt(data, int64(at-p.Vaddr)); err == nil {
			return data
		}
	}
	return nil
}
