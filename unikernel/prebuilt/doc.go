// Package prebuilt is the guest "image": an OCI image that carries its own
// kernel, such as a Unikraft, OSv or MirageOS program, or any Linux. Files of
// the image's root are what boots; nothing is installed on the host for it.
//
// # What boots
//
// The kernel is one that QEMU's -kernel takes, see Detect:
//
//	PVH        an ELF file with the note XEN_ELFNOTE_PHYS32_ENTRY
//	multiboot  version 1: a 32-bit ELF file, or any file whose header says
//	           where to load it, if only it says so in its flags
//	Linux      a bzImage
//	BIOS       a disk, where no kernel is named
//
// Without a machine type in the configuration the first boots on microvm (devices
// behind virtio-mmio, described by ACPI), the second on pc (virtio behind PCI
// with addresses and interrupts set up by SeaBIOS, as such programs expect), the
// third on q35. A disk of the image is the first virtio disk; what is written
// to it is gone with the container. The other files of the image are not seen.
//
// What boots is named by configuration and annotations, or by the image: see Declared.
//
// # The command line
//
// is a template, see Template: the program's arguments as they are, if there is
// none. A multiboot kernel's begins with the program's name. Before that QEMU puts the
// kernel's path on the host: a few instructions before the kernel's own drop it again,
// in the machine's copy of the kernel (multiboot.patch).
//
// # The container
//
// is watched, see package watch. The serial console is its output, unfiltered;
// standard input is at its end. Its exit status:
//
//	0        the guest shut down or reset its machine
//	0–127    what it wrote to QEMU's isa-debug-exit device, at I/O port 0x501,
//	         or what that means for a kernel of its kind, see kinds and report
//	255      the guest's kernel reported a panic (QEMU's pvpanic), or halted for good
//	137      SIGKILL, or the end of QEMU by itself
//
// A reset cannot be told from a triple fault: both are 0. SIGTERM presses the
// power button, once: a guest that does not listen has to be killed.
//
// What the specification says of users, capabilities, limits, the working
// directory, seccomp and mounts of kernel file systems is left out, as for all
// guests that run one program; of what is unusual of it the log tells. Bind mounts are refused, but for those that
// clients add by themselves, see leftOut. There is no DHCP server: a guest
// learns its addresses from its command line.
package prebuilt
