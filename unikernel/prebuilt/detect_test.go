package prebuilt

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

// file returns bytes with words of 32 bits at offsets, 16 KiB long.
func file(start string, words map[int]uint32) []byte {
	b := make([]byte, 16<<10)
	copy(b, start)
	for at, w := range words {
		binary.LittleEndian.PutUint32(b[at:], w)
	}
	return b
}

// elf32 and elf64 return a file with one segment of notes at 0x400.
func elf32(machine uint16, notes ...byte) []byte {
	b := file("\x7fELF\x01\x01\x01", map[int]uint32{28: 52, 52: uint32(elf.PT_NOTE), 52 + 4: 0x400, 52 + 16: uint32(len(notes)), 52 + 28: 4})
	binary.LittleEndian.PutUint16(b[18:], machine)
	binary.LittleEndian.PutUint16(b[42:], 32)
	binary.LittleEndian.PutUint16(b[44:], 1)
	copy(b[0x400:], notes)
	return b
}

func elf64(machine uint16, notes ...byte) []byte {
	b := file("\x7fELF\x02\x01\x01", map[int]uint32{32: 64, 64: uint32(elf.PT_NOTE), 64 + 8: 0x400, 64 + 32: uint32(len(notes)), 64 + 48: 4})
	binary.LittleEndian.PutUint16(b[18:], machine)
	binary.LittleEndian.PutUint16(b[54:], 56)
	binary.LittleEndian.PutUint16(b[56:], 1)
	copy(b[0x400:], notes)
	return b
}

func note(name string, kind, desc int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)))
	b = le.AppendUint32(b, uint32(desc))
	b = le.AppendUint32(b, uint32(kind))
	b = append(b, name...)
	b = append(b, make([]byte, -len(b)&3)...)
	return append(b, make([]byte, (desc+3)&^3)...)
}

// with puts a multiboot header into a file.
func with(b []byte, at int, flags uint32) []byte {
	binary.LittleEndian.PutUint32(b[at:], multibootMagic)
	binary.LittleEndian.PutUint32(b[at+4:], flags)
	binary.LittleEndian.PutUint32(b[at+8:], -(multibootMagic + flags))
	return b
}

var pvh = append(note("GNU\x00", 3, 5), note("Xen\x00", pvhNote, 4)...)

func TestDetect(t *testing.T) {
	for name, tt := range map[string]struct {
		data []byte
		want Protocol
		err  string
	}{
		"bzImage":              {file("MZ", map[int]uint32{0x202: 0x53726448}), Linux, ""},
		"PVH 32":               {elf32(uint16(elf.EM_386), pvh...), PVH, ""},
		"PVH 64":               {elf64(uint16(elf.EM_X86_64), pvh...), PVH, ""},
		"multiboot ELF":        {with(elf32(uint16(elf.EM_386)), 0x1000, 3), Multiboot, ""},
		"multiboot with PVH":   {with(elf32(uint16(elf.EM_386), pvh...), 0x1000, 3), Multiboot, ""},
		"multiboot raw":        {with(file("", nil), 0, multibootAddresses), Multiboot, ""},
		"multiboot at the end": {with(file("", nil), headSize-multibootRoom-4, multibootAddresses), Multiboot, ""},
		"multiboot too late":   {with(file("", nil), headSize-multibootRoom, multibootAddresses), 0, "no kernel"},
		"multiboot 64":         {with(elf64(uint16(elf.EM_X86_64), pvh...), 0x1000, 3), 0, "objcopy"},
		"multiboot 64, placed": {with(elf64(uint16(elf.EM_X86_64), pvh...), 0x1000, 0x10003), Multiboot, ""},
		"multiboot 64, filled": {placed(true), Multiboot, ""},
		"multiboot nowhere":    {with(file("", nil), 0, 3), 0, "where to load it"},
		"bad checksum":         {file("", map[int]uint32{0: multibootMagic, 4: 3, 8: 5}), 0, "no kernel"},
		"multiboot 2":          {file("", map[int]uint32{64: multiboot2Magic}), 0, "multiboot 2"},
		"multiboot 2 ELF":      {append(elf64(uint16(elf.EM_X86_64))[:0x1000], file("", map[int]uint32{0: multiboot2Magic})...), 0, "multiboot 2"},
		"ELF without note":     {elf64(uint16(elf.EM_X86_64), note("Xen\x00", 5, 4)...), 0, "neither a PVH note"},
		"other owner":          {elf64(uint16(elf.EM_X86_64), note("GNU\x00", pvhNote, 4)...), 0, "neither a PVH note"},
		"arm64 ELF":            {elf64(183, pvh...), 0, "another processor (e_machine 183)"},
		"arm64 Image":          {file("MZ", map[int]uint32{0x38: 0x644d5241}), 0, "for arm64"},
		"EFI":                  {file("MZ", nil), 0, "EFI program"},
		"gzip":                 {file("\x1f\x8b\x08", nil), 0, "compressed with gzip"},
		"script":               {[]byte("#!/bin/sh\n"), 0, "a script"},
		"empty":                {nil, 0, "empty"},
		"notes outside":        {elf64(uint16(elf.EM_X86_64), pvh...)[:0x408], 0, "damaged"},
		"programs outside":     {elf64(uint16(elf.EM_X86_64), pvh...)[:80], 0, "damaged"},
		"endless note":         {elf64(uint16(elf.EM_X86_64), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 18, 0, 0, 0, 0, 0), 0, "neither a PVH note"},
	} {
		got, err := Detect(bytes.NewReader(tt.data))
		if (err == nil) != (tt.err == "") || tt.err == "" && got != tt.want || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %s, %v; want %s, %q", name, got, err, tt.want, tt.err)
		}
	}
}

func TestDetectReportsReadErrors(t *testing.T) {
	if _, err := Detect(broken{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func FuzzDetect(f *testing.F) {
	f.Add(elf64(uint16(elf.EM_X86_64), pvh...))
	f.Add(elf32(uint16(elf.EM_386), pvh...))
	f.Add(with(file("", nil), 0, multibootAddresses))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := Detect(bytes.NewReader(data)); err == nil && p.String() == "" {
			t.Errorf("protocol %d", p)
		}
	})
}
