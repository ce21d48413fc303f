package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"containerd-shim-uni/config"
)

const installGuest = "run make install, or set the path in the configuration"

func checkKernel(_ context.Context, h host, c config.Config) finding {
	path := c.Linux.Kernel
	f, err := os.Open(h.root + path)
	if err != nil {
		return fail(installGuest, "linux.kernel: %v", err)
	}
	defer f.Close()
	image, err := elf.NewFile(f)
	if err != nil {
		return fail(installGuest, "linux.kernel %s is no ELF file (a vmlinux is wanted, not a bzImage): %v", path, err)
	}
	if image.Machine != elf.EM_X86_64 {
		return fail(installGuest, "linux.kernel %s is for %v", path, image.Machine)
	}
	if err := findPVHEntry(image); err != nil {
		return fail("build the kernel with CONFIG_PVH", "linux.kernel %s: %v", path, err)
	}
	return ok("%s", path)
}

// phys32Entry is the type of the ELF note that says where a kernel is entered
// by PVH boot: XEN_ELFNOTE_PHYS32_ENTRY of Xen's public/elfnote.h.
const phys32Entry = 18

// findPVHEntry looks for the note without which QEMU does not boot an ELF.
func findPVHEntry(image *elf.File) error {
	for _, p := range image.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		data := make([]byte, p.Filesz)
		if _, err := p.ReadAt(data, 0); err != nil {
			return fmt.Errorf("read notes: %w", err)
		}
		if hasNote(data, "Xen\x00", phys32Entry) {
			return nil
		}
	}
	return errors.New("it has no PVH entry point")
}

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

func checkInitrd(_ context.Context, h host, c config.Config) finding {
	info, err := os.Stat(h.root + c.Linux.Initrd)
	switch {
	case err != nil:
		return fail(installGuest, "linux.initrd: %v", err)
	case !info.Mode().IsRegular() || info.Size() == 0:
		return fail(installGuest, "linux.initrd %s is no file with contents", c.Linux.Initrd)
	}
	return ok("%s, %s", c.Linux.Initrd, human(info.Size()))
}
