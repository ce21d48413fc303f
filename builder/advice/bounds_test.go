package advice

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel/boundtest"
)

// sparse is a file of which only the start is not zero.
type sparse struct {
	start []byte
	size  int64
}

func (s sparse) Open() (tree.Content, error) { return s, nil }
func (s sparse) Close() error                { return nil }
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

// A program whose string table claims gigabytes is judged at the price of any
// other.
func TestClaimedStrings(t *testing.T) {
	for _, size := range []uint64{2 << 30, 1 << 40} {
		data := program{interp: glibc, needed: []string{"liba.so.1"}, imports: []string{"fork"}}.bytes(t)
		shoff := binary.LittleEndian.Uint64(data[40:])
		binary.LittleEndian.PutUint64(data[shoff+3*elf64SectionSize+32:], size)
		root := files(map[string]string{"lib64/ld-linux-x86-64.so.2": string(program{}.bytes(t)), "app*": "x"})
		app, _, err := root.Lookup("/app")
		if err != nil {
			t.Fatal(err)
		}
		app.Size, app.Data = 1<<41, sparse{data, 1 << 41}
		for _, guest := range []string{Linux, Nanos} {
			boundtest.Most(t, 256<<10, func() {
				i := Image{Architecture: "amd64", Args: []string{"/app"}, Root: root}
				if f, bad := Problem(i, guest); !bad || !strings.Contains(f.Detail, "liba.so.1") {
					t.Errorf("%v", f)
				}
				Check(i, guest)
			})
		}
	}
}

const elf64SectionSize = 64

// Libraries that need each other, with long paths to search and configurations
// that include many, do not multiply.
func TestManyLibraries(t *testing.T) {
	all := map[string]string{"lib64/ld-linux-x86-64.so.2": string(program{}.bytes(t)), "etc/ld.so.conf": "include /etc/d/*\n",
		"etc/ld.so.cache": strings.Repeat("x", maxText)}
	for i := range 2000 {
		all[fmt.Sprintf("etc/d/%d", i)] = strings.Repeat("/opt/x\n", 100)
		var needed []string
		for j := range 3 {
			needed = append(needed, fmt.Sprintf("l%d.so", 3*i+j))
		}
		all[fmt.Sprintf("lib/l%d.so", i)] = string(program{interp: "x", needed: needed, runpath: strings.Repeat("$ORIGIN/a:", 400)}.bytes(t))
	}
	all["app*"] = string(program{interp: glibc, needed: []string{"l0.so"}}.bytes(t))
	root := files(all)
	boundtest.Most(t, 64<<20, func() {
		if f, bad := Problem(Image{Args: []string{"/app"}, Root: root}, Linux); bad {
			t.Logf("%v", f)
		}
	})
}

// A machine of the other byte order is named.
func TestBigEndian(t *testing.T) {
	data := make([]byte, 64)
	copy(data, elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2MSB), 1}))
	binary.BigEndian.PutUint16(data[18:], uint16(elf.EM_S390))
	f, bad := Problem(Image{Args: []string{"/app"}, Root: files(map[string]string{"app*": string(data)})}, Linux)
	if !bad || !strings.Contains(f.Detail, "EM_S390") {
		t.Errorf("%v", f)
	}
}
