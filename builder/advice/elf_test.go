package advice

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel/elffile"
)

// program is an ELF file to be made.
type program struct {
	machine elf.Machine // 0 is x86-64
	interp  string
	needed  []string
	runpath string
	imports []string
}

// bytes writes headers, one program header and the sections that a dynamic
// loader's tables are found by.
func (p program) bytes(t testing.TB) []byte {
	t.Helper()
	le := binary.LittleEndian
	strs := []byte{0}
	str := func(s string) uint64 {
		at := len(strs)
		strs = append(append(strs, s...), 0)
		return uint64(at)
	}
	var dynamic, symbols bytes.Buffer
	put := func(b *bytes.Buffer, v any) {
		if err := binary.Write(b, le, v); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range p.needed {
		put(&dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: str(n)})
	}
	if p.runpath != "" {
		put(&dynamic, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: str(p.runpath)})
	}
	put(&dynamic, elf.Dyn64{})
	put(&symbols, elf.Sym64{})
	for _, name := range p.imports {
		put(&symbols, elf.Sym64{Name: uint32(str(name)), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC)})
	}
	const headerSize, progSize, sectionSize = 64, 56, 64
	interp := append([]byte(p.interp), 0)
	at := uint64(headerSize + progSize)
	place := func(n int) uint64 { defer func() { at += uint64(n) }(); return at }
	interpAt, dynAt, symAt, strAt := place(len(interp)), place(dynamic.Len()), place(symbols.Len()), place(len(strs))
	machine := p.machine
	if machine == 0 {
		machine = elf.EM_X86_64
	}
	var out bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Phoff: headerSize, Shoff: at,
		Ehsize: headerSize, Phentsize: progSize, Phnum: 1, Shentsize: sectionSize, Shnum: 4, Shstrndx: 3,
	}
	copy(h.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}))
	put(&out, h)
	prog := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: interpAt, Filesz: uint64(len(interp))}
	if p.interp == "" {
		prog.Type = uint32(elf.PT_NULL)
	}
	put(&out, prog)
	for _, b := range [][]byte{interp, dynamic.Bytes(), symbols.Bytes(), strs} {
		out.Write(b)
	}
	put(&out, elf.Section64{})
	put(&out, elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: uint64(dynamic.Len()), Link: 3, Entsize: 16})
	put(&out, elf.Section64{Type: uint32(elf.SHT_DYNSYM), Off: symAt, Size: uint64(symbols.Len()), Link: 3, Info: 1, Entsize: 24})
	put(&out, elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: strAt, Size: uint64(len(strs))})
	return out.Bytes()
}

// The files made here are what debug/elf, and so the checks, take them for.
func TestProgramBytes(t *testing.T) {
	p := program{interp: "/lib/ld.so", needed: []string{"liba.so"}, runpath: "$ORIGIN", imports: []string{"fork"}}
	f, err := elf.NewFile(bytes.NewReader(p.bytes(t)))
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := f.ImportedLibraries()
	if err != nil || strings.Join(libraries, " ") != "liba.so" {
		t.Errorf("libraries %q, %v", libraries, err)
	}
	ours, err := elffile.Open(bytes.NewReader(p.bytes(t)))
	if err != nil {
		t.Fatal(err)
	}
	if got := dynamic(ours)[elf.DT_NEEDED]; !slices.Equal(got, libraries) || ours.Interpreter() != "/lib/ld.so" {
		t.Errorf("libraries %q, loader %q", got, ours.Interpreter())
	}
}
