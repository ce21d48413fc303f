package prebuilt

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"containerd-shim-uni/unikernel/elffile"
)

// Protocol is how a kernel is started.
type Protocol int

// The protocols that QEMU's -kernel knows.
const (
	PVH Protocol = iota + 1
	Multiboot
	Linux
)

// BIOS is how a disk starts that boots by itself.
const BIOS Protocol = -1

// String returns the protocol's name.
func (p Protocol) String() string {
	return map[Protocol]string{PVH: "PVH", Multiboot: "multiboot", Linux: "Linux", BIOS: "BIOS"}[p]
}

// What QEMU's x86_load_linux, load_multiboot and load_elf look for (7.2,
// hw/i386/x86.c and multiboot.c).
const (
	headSize = 8192 // how much of the file it searches
	// The Linux boot protocol's magic (Documentation/arch/x86/boot.rst).
	linuxAt, linuxMagic = 0x202, "HdrS"
	// The multiboot header: magic, flags, checksum (multiboot specification
	// 0.6.96, 3.1.1), of which 48 bytes must fit.
	multibootMagic, multibootRoom = 0x1BADB002, 48
	// multibootAddresses in the flags: the header says where to load the file.
	multibootAddresses = 1 << 16
	// Multiboot 2's magic (specification 2.0, 3.1.1).
	multiboot2Magic = 0xE85250D6
	// pvhNote is XEN_ELFNOTE_PHYS32_ENTRY, of the owner "Xen"
	// (xen/include/public/elfnote.h).
	pvhNote = 18
)

var errTruncated = errors.New("it is a damaged ELF file: a header points behind its end")

// kernel is what is known of a kernel's file.
type kernel struct {
	Protocol
	multiboot multiboot     // of that protocol
	image     *elffile.File // nil for what is none
	kind      kind          // not of Detect
}

// Detect returns how the kernel in a file starts. The error says what else the file
// is.
func Detect(r io.ReaderAt) (Protocol, error) {
	k, err := identify(r)
	if err != nil {
		return 0, err
	}
	return k.Protocol, nil
}

// recognise is identify, and says whose kernel it is.
func recognise(r io.ReaderAt) (kernel, error) {
	k, err := identify(r)
	switch {
	case err != nil:
		return kernel{}, err
	case k.Protocol == Linux:
		k.kind = linuxKind
	default:
		k.kind, err = kindOf(r, k.image)
	}
	return k, err
}

// Describe says in a few words how a kernel starts and whose it is: "multiboot, Solo5".
func Describe(r io.ReaderAt) (string, error) {
	k, err := recognise(r)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s", k.Protocol, k.kind), nil
}

// identify looks at a file in the order in which QEMU finds out.
func identify(r io.ReaderAt) (kernel, error) {
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return kernel{}, err
	}
	head = head[:n]
	if len(head) >= linuxAt+4 && string(head[linuxAt:linuxAt+4]) == linuxMagic {
		return kernel{Protocol: Linux}, nil
	}
	image, err := elffile.Open(r)
	if err != nil && !errors.Is(err, elffile.ErrFormat) {
		return kernel{}, err
	}
	if m, ok := findMultiboot(head); ok {
		return kernel{Protocol: Multiboot, multiboot: m, image: image}, m.check(image)
	}
	if errors.Is(err, elffile.ErrTruncated) {
		return kernel{}, errTruncated
	}
	if image == nil {
		return kernel{}, fmt.Errorf("it is %s; %s", other(head), wanted)
	}
	if err := checkSolo5(image); err != nil {
		return kernel{}, err
	}
	return kernel{Protocol: PVH, image: image}, checkPVH(image, head)
}

// checkPVH refuses an ELF file that is no PVH kernel.
func checkPVH(image *elffile.File, head []byte) error {
	if image.Machine != elf.EM_386 && image.Machine != elf.EM_X86_64 {
		return fmt.Errorf("it is an ELF file for another processor (e_machine %d); %s", int(image.Machine), wanted)
	}
	found, err := image.HasNote("Xen", pvhNote)
	switch {
	case errors.Is(err, elffile.ErrTruncated):
		return errTruncated
	case err != nil:
		return err
	case !found && find32(head, multiboot2Magic, 8) >= 0:
		return fmt.Errorf("it has a multiboot 2 header, which QEMU cannot load; %s", wanted)
	case !found:
		return fmt.Errorf("it is an ELF file with neither a PVH note nor a multiboot header; %s", wanted)
	}
	return nil
}

const wanted = "wanted is a kernel for x86-64: an ELF file with a PVH note, one with a multiboot header (version 1), or a Linux bzImage"

// find32 returns where a value first stands at a multiple of step, or -1.
func find32(b []byte, value uint32, step int) int {
	for at := 0; at+4 <= len(b); at += step {
		if binary.LittleEndian.Uint32(b[at:]) == value {
			return at
		}
	}
	return -1
}

// other says what a file is that is no kernel.
func other(head []byte) string {
	at := func(i int, s string) bool { return len(head) >= i+len(s) && string(head[i:i+len(s)]) == s }
	switch {
	case len(head) == 0:
		return "empty"
	case at(0x38, "ARM\x64"): // Documentation/arch/arm64/booting.rst
		return "a Linux kernel for arm64"
	case at(0, "MZ"):
		return "an EFI program"
	case at(0, "\x1f\x8b"):
		return "compressed with gzip"
	case at(0, "\x28\xb5\x2f\xfd"):
		return "compressed with zstd"
	case at(0, "\xfd7zXZ"):
		return "compressed with xz"
	case at(0, "#!"):
		return "a script"
	case find32(head, multiboot2Magic, 8) >= 0:
		return "a multiboot 2 kernel, which QEMU cannot load"
	default:
		return "no kernel that is known"
	}
}
