package prebuilt

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/boundtest"
)

// placed is a 64-bit ELF file whose multiboot header, at 0x190, says where to load it:
// all from 0x100 to 0x300 at 0x100100, and 0x1000 zeros. With unsaid the flags do not say
// that it does.
func placed(unsaid bool) []byte {
	b := elf64(uint16(elf.EM_X86_64))
	binary.LittleEndian.PutUint32(b[64:], uint32(elf.PT_LOAD))
	for at, v := range map[int]uint64{8: 0x100, 16: 0x8000100, 24: 0x100100, 32: 0x200, 40: 0x1200} {
		binary.LittleEndian.PutUint64(b[64+at:], v)
	}
	flags := uint32(0x10003)
	if unsaid {
		flags = 3
	}
	with(b, 0x190, flags)
	for i, v := range []uint32{0x100190, 0x100100, 0x100300, 0x101300, 0x100200} {
		binary.LittleEndian.PutUint32(b[0x190+12+4*i:], v)
	}
	copy(b[0x300:], "symbols")
	return b
}

// plain is a 32-bit multiboot ELF file of two segments: the first at its physical
// address, the second, with the entry, at another.
func plain() []byte {
	b := with(elf32(uint16(elf.EM_386)), 0x190, 3)
	le := binary.LittleEndian
	le.PutUint32(b[20:], uint32(elf.EV_CURRENT))
	le.PutUint32(b[24:], 0xc0200010) // e_entry
	le.PutUint16(b[44:], 2)
	for i, s := range [][]uint32{
		{uint32(elf.PT_LOAD), 0x100, 0x100000, 0x100000, 0x200, 0x200, 4, 4},
		{uint32(elf.PT_LOAD), 0x400, 0xc0200000, 0x200000, 0x100, 0x5001, 5, 4},
	} {
		for j, v := range s {
			le.PutUint32(b[52+32*i+4*j:], v)
		}
	}
	return b
}

// apply does what the shim does to the copy.
func apply(t *testing.T, data []byte, p *unikernel.Patch) []byte {
	t.Helper()
	b := make([]byte, p.Size)
	copy(b, data[:p.Keep])
	for _, e := range p.Edits {
		if e.At+int64(len(e.Data)) > p.Size {
			t.Fatalf("%d bytes at %#x of %#x", len(e.Data), e.At, p.Size)
		}
		copy(b[e.At:], e.Data)
	}
	return b
}

// runs interprets the prelude: it returns what it adds to the command line's address,
// and where it goes on.
func runs(t *testing.T, code []byte, at uint32) (add, next uint32) {
	t.Helper()
	le := binary.LittleEndian
	if len(code) < preludeSize || !bytes.Equal(code[:3], []byte{0x81, 0x43, 0x10}) || code[7] != 0xe9 {
		t.Fatalf("code % x", code)
	}
	return le.Uint32(code[3:]), at + preludeSize + le.Uint32(code[8:])
}

const hostPath = "/var/lib/uni/kernel.own"

func patchOf(t *testing.T, data []byte) (kernel, []byte) {
	t.Helper()
	k, err := identify(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	p, ok := k.multiboot.patch(k.image, int64(len(data)), hostPath)
	if !ok {
		t.Fatal("no room")
	}
	return k, apply(t, data, p)
}

// TestPatchPlaced: the header says where the file is loaded, the prelude behind all of it
// included; between is nothing but zeros.
func TestPatchPlaced(t *testing.T) {
	for _, unsaid := range []bool{false, true} {
		data := placed(unsaid)
		_, got := patchOf(t, data)
		m, ok := findMultiboot(got[:min(len(got), headSize)])
		const at = 0x101300 // the end, which happens to be aligned
		want := multiboot{at: 0x190, flags: 0x10003, header: 0x100190, load: 0x100100, loadEnd: at + preludeSize, bssEnd: at + preludeSize, entry: at}
		if !ok || m != want {
			t.Errorf("header %+v, want %+v", m, want)
		}
		if add, next := runs(t, got[0x1300:], at); int(add) != len(hostPath)+1 || next != 0x100200 {
			t.Errorf("adds %d, goes on at %#x", add, next)
		}
		if len(got) != 0x1300+preludeSize || !bytes.Equal(got[0x300:0x1300], make([]byte, 0x1000)) || !bytes.Equal(got[:0x190], data[:0x190]) {
			t.Error("other parts differ")
		}
	}
}

// TestPatchELF: what debug/elf reads of the copy is the kernel, and a segment with the
// prelude behind it in memory.
func TestPatchELF(t *testing.T) {
	data := plain()
	_, got := patchOf(t, data)
	f, err := elf.NewFile(bytes.NewReader(got))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Progs) != 3 || f.Progs[1].Paddr != 0x200000 || f.Progs[1].Memsz != 0x5001 || f.Progs[0].Off != 0x100 {
		t.Fatalf("segments %+v", f.Progs)
	}
	p := f.Progs[2]
	if p.Paddr < 0x205001 || p.Paddr > 0x205001+preludeAlign || p.Vaddr != p.Paddr || p.Filesz != preludeSize || p.Memsz != preludeSize || f.Entry != p.Paddr || p.Flags&elf.PF_X == 0 {
		t.Errorf("segment %+v, entry %#x", p, f.Entry)
	}
	code := make([]byte, p.Filesz)
	if _, err := p.ReadAt(code, 0); err != nil {
		t.Fatal(err)
	}
	if add, next := runs(t, code, uint32(p.Paddr)); int(add) != len(hostPath)+1 || next != 0x200010 {
		t.Errorf("adds %d, goes on at %#x, which should be the entry's physical address", add, next)
	}
}

// TestNoRoom: files in which nothing can be put before the entry are left as they are.
func TestNoRoom(t *testing.T) {
	le := binary.LittleEndian
	for name, change := range map[string]func(placed, plain []byte){
		"before the file":     func(p, _ []byte) { le.PutUint32(p[0x190+12:], 0x100400) },
		"ends behind it":      func(p, _ []byte) { le.PutUint32(p[0x190+20:], 0x200000) },
		"ends before":         func(p, _ []byte) { le.PutUint32(p[0x190+20:], 0x100000) },
		"zeros without end":   func(p, _ []byte) { le.PutUint32(p[0x190+24:], 0xfffffff0) },
		"top of memory":       func(_, p []byte) { le.PutUint32(p[52+32+20:], 0xffdfffff) },
		"another's addresses": func(_, p []byte) { le.PutUint32(p[52+32+8:], 0x205000) },
		"odd headers":         func(_, p []byte) { le.PutUint16(p[42:], 40) },
	} {
		two := [][]byte{placed(false), plain()}
		before := [][]byte{bytes.Clone(two[0]), bytes.Clone(two[1])}
		change(two[0], two[1])
		for i, data := range two {
			if bytes.Equal(data, before[i]) {
				continue
			}
			k, err := identify(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if p, ok := k.multiboot.patch(k.image, int64(len(data)), hostPath); ok {
				t.Errorf("%s: %+v", name, p)
			}
		}
	}
}

// TestPlaceable: a header that is filled in is believed only if it describes the file.
func TestPlaceable(t *testing.T) {
	le := binary.LittleEndian
	for name, change := range map[string]func([]byte){
		"no entry":          func(b []byte) { le.PutUint32(b[0x190+28:], 0) },
		"another place":     func(b []byte) { le.PutUint64(b[64+24:], 0x200000) },
		"more than is read": func(b []byte) { le.PutUint64(b[64+32:], 0x300) },
		"nothing loaded":    func(b []byte) { le.PutUint32(b[64:], 0) },
		"before the file":   func(b []byte) { le.PutUint32(b[0x190+16:], 0) },
	} {
		b := placed(true)
		change(b)
		if _, err := identify(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzPatch: whatever a header says, the copy is no larger than what QEMU would allocate,
// and making it takes no memory to speak of.
func FuzzPatch(f *testing.F) {
	f.Add(placed(false), uint16(0x190+20), uint32(0x100300))
	f.Add(placed(true), uint16(0x190+24), uint32(0xfffff000))
	f.Add(plain(), uint16(52+20), uint32(0xfffff000))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, value uint32) {
		if int(at)+4 <= len(data) {
			binary.LittleEndian.PutUint32(data[at:], value)
		}
		boundtest.Most(t, 1<<20, func() {
			k, err := identify(bytes.NewReader(data))
			if err != nil || k.Protocol != Multiboot {
				return
			}
			p, ok := k.multiboot.patch(k.image, int64(len(data)), hostPath)
			if !ok {
				return
			}
			if p.Keep > int64(len(data)) || p.Size > maxPlaced+int64(len(data))+1<<20 || p.Keep > p.Size {
				t.Errorf("%+v", p)
			}
			for _, e := range p.Edits {
				if e.At < 0 || e.At+int64(len(e.Data)) > p.Size {
					t.Errorf("%d bytes at %d of %d", len(e.Data), e.At, p.Size)
				}
			}
		})
	})
}
