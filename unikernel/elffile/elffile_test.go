package elffile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"containerd-shim-uni/unikernel/boundtest"
)

// sparse is a file of which only the start is not zero.
type sparse struct {
	start []byte
	size  int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(s.size-off, 0)))
	clear(p[:n])
	if off < int64(len(s.start)) {
		copy(p[:n], s.start[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// claims returns a program whose sections claim to have this size.
func claims(size uint64) []byte {
	le := binary.LittleEndian
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Phoff: 64, Phentsize: 56, Phnum: 2, Shoff: 64 + 2*56, Shentsize: 64, Shnum: 5}
	copy(h.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	const data = 64 + 2*56 + 5*64
	section := func(kind elf.SectionType, link uint32) elf.Section64 {
		return elf.Section64{Type: uint32(kind), Off: data, Size: size, Link: link}
	}
	var b bytes.Buffer
	for _, part := range []any{
		h, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: data, Filesz: size}, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: data, Filesz: size},
		section(elf.SHT_NULL, 0), section(elf.SHT_DYNAMIC, 4), section(elf.SHT_DYNSYM, 4), section(elf.SHT_SYMTAB, 4), section(elf.SHT_STRTAB, 0),
		[]uint64{uint64(elf.DT_NEEDED), 0, uint64(elf.DT_NEEDED), size / 2, uint64(elf.DT_SONAME), size},
	} {
		if err := binary.Write(&b, le, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// readAll asks for everything.
func readAll(r io.ReaderAt) error {
	f, err := Open(r)
	if err != nil {
		return err
	}
	f.Interpreter()
	_, _ = f.HasNote("Xen", 18)
	f.Dynamic(elf.DT_NEEDED, elf.DT_SONAME)
	f.Memory(0, 4096)
	for _, kind := range []elf.SectionType{elf.SHT_DYNSYM, elf.SHT_SYMTAB} {
		f.Symbols(kind, []string{"fork", ""})
	}
	return nil
}

// Whatever sections claim to have, reading takes no more than some windows, of
// files that end and of such that go on in zeros.
func TestClaimedSizes(t *testing.T) {
	for _, size := range []uint64{4096, 64 << 10, 2 << 30, 1 << 40, 1<<63 - 1, 1<<64 - 1} {
		start := claims(size)
		for _, end := range []int64{int64(len(start)), 1 << 41} {
			boundtest.Most(t, 768<<10, func() {
				if err := readAll(sparse{start, end}); err != nil {
					t.Errorf("%d of %d: %v", size, end, err)
				}
			})
		}
	}
}

// Tables of headers are bounded as Linux bounds them.
func TestManyHeaders(t *testing.T) {
	b := claims(0)
	binary.LittleEndian.PutUint16(b[56:], 65535) // e_phnum
	boundtest.Most(t, 64<<10, func() {
		if _, err := Open(sparse{b, 1 << 40}); !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
	b = claims(0)
	binary.LittleEndian.PutUint16(b[60:], 65535) // e_shnum
	boundtest.Most(t, 64<<10, func() {
		if f, err := Open(sparse{b, 1 << 40}); err != nil || f.sections != nil {
			t.Error(err)
		}
	})
}

// What is read of the test's own program is what debug/elf reads.
func TestAgainstDebugELF(t *testing.T) {
	r, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want, err := elf.NewFile(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(r)
	if err != nil {
		t.Fatal(err)
	}
	if f.Machine != want.Machine || f.Class != want.Class || len(f.sections) != len(want.Sections) || len(f.programs) != len(want.Progs) {
		t.Errorf("%v, %v, %d sections, %d programs", f.Machine, f.Class, len(f.sections), len(f.programs))
	}
	libraries, _ := want.ImportedLibraries()
	if got := f.Dynamic(elf.DT_NEEDED)[elf.DT_NEEDED]; !slices.Equal(got, libraries) {
		t.Errorf("libraries %q, want %q", got, libraries)
	}
	all, _ := want.Symbols()
	for _, i := range []int{0, len(all) / 2, len(all) - 1} {
		if len(all) == 0 || all[0].Name == "" {
			break // a test's program may be stripped
		}
		w := all[i]
		got, count := f.Symbols(elf.SHT_SYMTAB, []string{w.Name})
		if count != len(all) || !slices.Contains(got, Symbol{w.Name, w.Value, elf.ST_TYPE(w.Info) == elf.STT_FUNC, w.Section == elf.SHN_UNDEF}) {
			t.Errorf("%+v is read as %+v among %d of %d", w, got, count, len(all))
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add(claims(4096), uint16(0), uint64(1)<<40)
	f.Add(claims(100), uint16(200), uint64(77))
	f.Fuzz(func(t *testing.T, data []byte, at uint16, value uint64) {
		if int(at)+8 <= len(data) {
			binary.LittleEndian.PutUint64(data[at:], value)
		}
		boundtest.Most(t, 1<<20, func() {
			if err := readAll(sparse{data, 1 << 42}); err != nil && !errors.Is(err, ErrFormat) {
				t.Error(err)
			}
		})
	})
}
