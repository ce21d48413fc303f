package prebuilt

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/boundtest"
)

// solo5Note is Solo5's note about a target.
func solo5Note(target uint32) []byte {
	n := note("Solo5\x00", solo5Abi, 8)
	binary.LittleEndian.PutUint32(n[len(n)-8:], target)
	return n
}

func TestKind(t *testing.T) {
	pvhWith := func(text string, at int) []byte {
		b := append(elf64(uint16(elf.EM_X86_64), pvh...), make([]byte, at)...)
		return append(b, text...)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"Linux's format":       {file("MZ", map[int]uint32{0x202: 0x53726448}), "Linux, Linux"},
		"Linux as ELF":         {pvhWith("Linux version 6.12", 0), "PVH, Linux"},
		"Unikraft":             {append(plain(), "\x00.uk_bootinfo\x00"...), "multiboot, Unikraft"},
		"Solo5":                {with(elf64(uint16(elf.EM_X86_64), solo5Note(3)...), 0x1000, 0x10003), "multiboot, Solo5"},
		"IncludeOS":            {append(placed(true), "IncludeOS"...), "multiboot, IncludeOS"},
		"OSv":                  {pvhWith("OSv v0.57.0", 0), "PVH, OSv"},
		"names of others":      {pvhWith("Linux version 4 .uk_bootinfo", 0), "PVH, Unikraft"},
		"names in other parts": {append(pvhWith("Linux version 4", 0), pvhWith("OSv v", 3*searchWindow)...), "PVH, OSv"},
		"at a seam":            {pvhWith("OSv v", 2*searchWindow-16<<10-2), "PVH, OSv"},
		"nobody's":             {pvhWith("hello", 0), "PVH, unknown"},
		"another's note":       {with(elf64(uint16(elf.EM_X86_64), note("Solo6\x00", solo5Abi, 8)...), 0x1000, 0x10003), "multiboot, unknown"},
		"a short note":         {with(elf64(uint16(elf.EM_X86_64), note("Solo5\x00", solo5Abi, 0)...), 0x1000, 0x10003), "multiboot, unknown"},
	} {
		if got, err := Describe(bytes.NewReader(tt.data)); err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

// TestSolo5Targets: what is not built for QEMU says so.
func TestSolo5Targets(t *testing.T) {
	for target, want := range map[uint32]string{1: "target hvt", 2: "target spt", 6: "target xen", 99: "target 99", 3: "neither a PVH note"} {
		_, err := Describe(bytes.NewReader(elf64(uint16(elf.EM_X86_64), solo5Note(target)...)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", target, err)
		}
	}
}

// TestSearchIsBounded: of a kernel of any size a bounded part is read, through a buffer.
func TestSearchIsBounded(t *testing.T) {
	r := &endless{start: elf64(uint16(elf.EM_X86_64), pvh...)}
	boundtest.Most(t, 2<<20, func() {
		if got, err := Describe(r); err != nil || got != "PVH, unknown" {
			t.Errorf("%s, %v", got, err)
		}
	})
	if r.most > maxSearched+searchWindow {
		t.Errorf("read up to %d", r.most)
	}
}

// endless is a file that goes on in zeros.
type endless struct {
	start []byte
	most  int64
}

func (e *endless) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(e.start)) {
		copy(p, e.start[off:])
	}
	e.most = max(e.most, off+int64(len(p)))
	return len(p), nil
}

// TestExits: by the kernel's kind, or as it is asked for.
func TestExits(t *testing.T) {
	for _, tt := range []struct {
		kind   kind
		how    string
		status uint32
		want   uint32
		device bool
	}{
		{unknown, "", 41, 41, true},
		{solo5, "", 41, 0, true},
		{solo5, "auto", 41, 0, true},
		{kinds[0], "auto", 42, 42, true},
		{solo5, "raw", 41, 41, true},
		{solo5, "41=7, 42=255", 41, 7, true},
		{unknown, "41=7,42=255", 42, 255, true},
		{unknown, "41=7", 1, 1, true},
		{solo5, "ignore", 0, 0, false},
	} {
		g := &Guest{cfg: Config{Exit: tt.how}, kernel: kernel{kind: tt.kind}}
		got, err := g.exit(unikernel.End{Reason: unikernel.EndExited, Status: tt.status}, nil)
		board, berr := g.board()
		if err != nil || berr != nil || got != tt.want || board.DebugExit != tt.device {
			t.Errorf("%s, %q: %d becomes %d, %v, %v, device %t", tt.kind, tt.how, tt.status, got, err, berr, board.DebugExit)
		}
	}
	for _, how := range []string{"x", "128=0", "1=256", "1", "1=2,", "-1=0"} {
		if _, err := New(Config{Kernel: "/k", Exit: how}).Plan(app("x"), size); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), `"41=0,42=1"`) {
			t.Errorf("%q: %v", how, err)
		}
	}
	for _, k := range append(kinds, solo5) {
		if _, err := parseStatuses(k.exit); k.exit != "" && err != nil {
			t.Error(err)
		}
	}
}

// TestBoard: what the kernel's kind does without, and who has the last word.
func TestBoard(t *testing.T) {
	for _, tt := range []struct {
		kind kind
		cfg  Config
		want unikernel.Board
	}{
		{unknown, Config{}, unikernel.Board{}},
		{solo5, Config{}, unikernel.Board{NoRandom: true}},
		{solo5, Config{RNG: "on", Virtio: "legacy"}, unikernel.Board{Virtio: unikernel.VirtioLegacy}},
		{unknown, Config{RNG: "off", Virtio: "modern"}, unikernel.Board{NoRandom: true, Virtio: unikernel.VirtioModern}},
	} {
		want := tt.want
		want.BIOS, want.DebugExit, want.HPET, want.NoMWAIT, want.Halts = true, true, true, true, true
		if got, err := (&Guest{cfg: tt.cfg, kernel: kernel{Protocol: PVH, kind: tt.kind}}).board(); err != nil || got != want {
			t.Errorf("%s, %+v: got %+v, %v", tt.kind, tt.cfg, got, err)
		}
	}
}

// TestDeaf: whoever starts a kernel that cannot be asked to stop is told.
func TestDeaf(t *testing.T) {
	for name, data := range map[string][]byte{"Unikraft": append(plain(), ".uk_bootinfo"...), "": plain()} {
		got, err := New(Config{Kernel: "/k"}).Complete(bytes.NewReader(data), int64(len(data)), "/host/kernel")
		if err != nil || (len(got.Without) == 1) != (name != "") || name != "" && !strings.Contains(got.Without[0], name+" takes no notice of the power button") {
			t.Errorf("%s: %q, %v", name, got.Without, err)
		}
	}
}
