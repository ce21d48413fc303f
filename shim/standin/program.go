package standin

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// code is what a stand-in executes, for x86-64. It needs no memory but a page
// of code and one of stack, and no library; the system calls and their numbers
// are those of the kernel's arch/x86/entry/syscalls/syscall_64.tbl.
var code = []byte{
	// What its starter failed to keep from it must not stay open with it:
	// close_range(1, ~0, 0), since Linux 5.9
	0xb8, 180, 1, 0, 0, //                mov  eax, 436
	0xbf, 1, 0, 0, 0, //                  mov  edi, 1
	0x83, 0xce, 0xff, //                  or   esi, -1
	0x31, 0xd2, //                        xor  edx, edx
	0x0f, 0x05, //                        syscall

	// Children that other processes leave in its PID namespace need no reaping:
	// rt_sigaction(SIGCHLD, {SIG_IGN}, NULL, 8)
	0xb8, 13, 0, 0, 0, //                 mov  eax, 13
	0xbf, 17, 0, 0, 0, //                 mov  edi, 17
	0x48, 0x8d, 0x35, 0x27, 0, 0, 0, //   lea  rsi, [rip + action]
	0x31, 0xd2, //                        xor  edx, edx
	0x41, 0xba, 8, 0, 0, 0, //            mov  r10d, 8
	0x0f, 0x05, //                        syscall

	// while (read(0, below the stack, 1) > 0);
	0x31, 0xc0, //                  again: xor  eax, eax
	0x31, 0xff, //                        xor  edi, edi
	0x48, 0x8d, 0x74, 0x24, 0xf8, //      lea  rsi, [rsp - 8]
	0xba, 1, 0, 0, 0, //                  mov  edx, 1
	0x0f, 0x05, //                        syscall
	0x85, 0xc0, //                        test eax, eax
	0x7f, 0xec, //                        jg   again

	// exit_group(0)
	0xb8, 231, 0, 0, 0, //                mov  eax, 231
	0x31, 0xff, //                        xor  edi, edi
	0x0f, 0x05, //                        syscall

	// action: struct kernel_sigaction with the handler SIG_IGN
	1, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0,
}

// program returns the code as a statically linked program.
func program() []byte {
	const address = 0x400000
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(elf.EM_X86_64),
		Version: uint32(elf.EV_CURRENT),
		Ehsize:  uint16(binary.Size(elf.Header64{})),
		Phoff:   uint64(binary.Size(elf.Header64{})),
		Phnum:   2, Phentsize: uint16(binary.Size(elf.Prog64{})),
	}
	start := header.Phoff + uint64(header.Phnum)*uint64(header.Phentsize)
	size := start + uint64(len(code))
	header.Entry = address + start
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: address, Paddr: address, Filesz: size, Memsz: size, Align: 4096},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	}
	var b bytes.Buffer
	for _, part := range []any{header, segments, code} {
		_ = binary.Write(&b, binary.LittleEndian, part) // fixed sizes into memory
	}
	return b.Bytes()
}
