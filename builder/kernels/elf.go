package kernels

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/elffile"
	"containerd-shim-uni/unikernel/prebuilt"
)

// CheckPVH says whether QEMU can enter a kernel directly: an ELF file for
// x86-64 with a PVH entry point. The error is unikernel.ErrInvalid otherwise.
func CheckPVH(kernel io.ReaderAt) error {
	_, err := openPVH(kernel)
	return err
}

func openPVH(kernel io.ReaderAt) (*elffile.File, error) {
	if isARM64Image(kernel) {
		return nil, invalid("it is for arm64, and only x86-64 is supported")
	}
	image, err := elffile.Open(kernel)
	if err != nil {
		return nil, fmt.Errorf("it is no ELF file: %w: %w", unikernel.ErrInvalid, err)
	}
	if image.Machine != elf.EM_X86_64 || image.Class != elf.ELFCLASS64 {
		return nil, invalid("it is for %v (%v), and only x86-64 is supported", image.Machine, image.Class)
	}
	if how, err := prebuilt.Detect(kernel); err != nil || how != prebuilt.PVH {
		return nil, invalid("it has no PVH entry point")
	}
	return image, nil
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

// commit returns the source revision that a Nanos kernel was built from, empty
// if it does not say: the variable gitversion (kernel.mk:95), which is a length
// and an address of 8 bytes each. Kernels keep their symbols.
func commit(kernel *elffile.File) string {
	symbols, _ := kernel.Symbols(elf.SHT_SYMTAB, []string{"gitversion"})
	if len(symbols) == 0 {
		return ""
	}
	header := kernel.Memory(symbols[0].Value, 16)
	if header == nil {
		return ""
	}
	size, at := binary.LittleEndian.Uint64(header), binary.LittleEndian.Uint64(header[8:])
	if size != 40 && size != 64 { // hexadecimal digits of a SHA-1 or SHA-256
		return ""
	}
	if text := string(kernel.Memory(at, size)); isHex(text) {
		return text
	}
	return ""
}
