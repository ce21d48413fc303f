package frontend

import (
	"bufio"
	"slices"
	"strings"
	"testing"
)

const smaps = `00400000-00800000 r-xp 00000000 08:01 1  /usr/bin/shim
Size:               4096 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00800000-00900000 r--p 00400000 08:01 1  /usr/bin/shim
Anonymous:             4 kB
00900000-00a00000 rw-p 00500000 08:01 1  /usr/bin/shim
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:          1024 kB
7f0000000000-7f0000001000 r--p 00000000 08:01 2  /usr/lib/with space.so (deleted)
Anonymous:             0 kB
7f0000001000-7f0000002000 r--s 00000000 08:01 2  /usr/lib/shared
Anonymous:             0 kB
7fff00000000-7fff00001000 r-xp 00000000 00:00 0  [vdso]
Anonymous:             0 kB
7fff00002000-7fff00003000 ---p 00000000 08:01 2  /usr/lib/hole.so
Anonymous:             0 kB
`

func TestCleanMappings(t *testing.T) {
	got, err := cleanMappings(bufio.NewScanner(strings.NewReader(smaps)))
	if err != nil {
		t.Fatal(err)
	}
	want := []addressRange{{0x400000, 0x800000}, {0x7f0000000000, 0x7f0000001000}}
	if !slices.Equal(got, want) {
		t.Errorf("got %x", got)
	}
	if _, err := cleanMappings(bufio.NewScanner(strings.NewReader("x-y r-xp 0 0:0 1 /f\n"))); err == nil {
		t.Error("a bad address is no error")
	}
}

// TestDropCode: the program still runs without its pages.
func TestDropCode(t *testing.T) {
	for range 3 {
		if err := dropCode(); err != nil {
			t.Fatal(err)
		}
	}
}
