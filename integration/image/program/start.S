// The entry of a kernel that is started in 32-bit protected mode, without
// paging, by either of two protocols: multiboot, with its magic in EAX and the
// address of its information in EBX (multiboot specification 0.6.96, 3.2), or
// PVH, with the address of the start information in EBX (Xen,
// docs/misc/pvh.pandoc).

#ifdef PVH
	.section .note.Xen, "a", @note
	.align 4
	.long 4, 4, 18			// lengths of name and address; XEN_ELFNOTE_PHYS32_ENTRY
	.asciz "Xen"
	.long _start
#else
	.section .multiboot, "a"
	.align 4
#ifdef PLACED
	// Also says where the file is loaded, all of it: its start would be at the text
	// segment's.
header:	.long 0x1BADB002, 0x10002, -(0x1BADB002 + 0x10002)
	.long header, 0x100000, 0, _end, _start
#else
	.long 0x1BADB002, 2, -(0x1BADB002 + 2)	// wants to know of memory
#endif
#endif

	.text
	.globl _start
_start:
	mov $stack, %esp
	push %ebx
	push %eax
	call run
	hlt

	.bss
	.align 16
	.skip 16384
stack:

	.section .note.GNU-stack, "", @progbits
