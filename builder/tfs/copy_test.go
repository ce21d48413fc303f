package tfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

// memory is a file's contents, which say where their data are or do not.
type memory struct {
	data   []byte
	sparse bool
	closed func()
}

func (m memory) Open() (tree.Content, error) {
	c := plainMemory{bytes.NewReader(m.data), m.closed}
	if m.sparse {
		return sparseMemory{c, m.data}, nil
	}
	return c, nil
}

type plainMemory struct {
	*bytes.Reader
	closed func()
}

func (m plainMemory) Close() error {
	if m.closed != nil {
		m.closed()
	}
	return nil
}

type sparseMemory struct {
	plainMemory
	data []byte
}

// NextData knows holes of a page, as file systems do.
func (m sparseMemory) NextData(pos, size int64) (start, end int64, err error) {
	for start = pos; start < size && m.hole(start); start = start/pageSize*pageSize + pageSize {
	}
	for end = start; end < size && !m.hole(end); end = end/pageSize*pageSize + pageSize {
	}
	return min(start, size), min(end, size), nil
}

func (m sparseMemory) hole(pos int64) bool {
	pos = pos / pageSize * pageSize
	return isZero(m.data[pos:min(pos+pageSize, int64(len(m.data)))])
}

// holey is contents with holes here and there, and an extent that is longer
// than one can be.
func holey() []byte {
	data := make([]byte, maxExtent+20<<20+777)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(data[3<<20+holeSize : 3<<20+holeSize+maxExtent+2<<20])
	for range 30 {
		at := rnd.Uint64() % uint64(len(data)-200_000)
		clear(data[at : at+rnd.Uint64()%200_000])
	}
	data[len(data)-1] = 1
	return data
}

func written(t *testing.T, root *tree.Node) []byte {
	t.Helper()
	f := create(t)
	must(t, Volume{}.Write(t.Context(), f, root))
	data, err := os.ReadFile(f.Name())
	must(t, err)
	return data
}

// Holes follow from contents, not from what a file's file system says.
func TestHolesOfOneFile(t *testing.T) {
	data := holey()
	file := func(sparse bool) *tree.Node {
		n := &tree.Node{Mode: unix.S_IFREG, Size: int64(len(data)), Data: memory{data: data, sparse: sparse}}
		after := &tree.Node{Mode: unix.S_IFREG, Size: 3, Data: memory{data: []byte("end")}}
		return directory(tree.Entry{Name: "a", Node: n}, tree.Entry{Name: "b", Node: after})
	}
	plain := written(t, file(false))
	if !bytes.Equal(plain, written(t, file(true))) {
		t.Error("one file gives two disks")
	}
	if saved := len(data) - len(plain); saved < 8<<20 {
		t.Errorf("holes save %d bytes", saved)
	}
	fs, err := Read(bytes.NewReader(plain), 0, int64(len(plain)))
	must(t, err)
	for name, want := range map[string][]byte{"a": data, "b": []byte("end")} {
		f, err := fs.Lookup(name)
		must(t, err)
		if !bytes.Equal(read(t, f), want) {
			t.Errorf("%s has other contents", name)
		}
	}
	f, err := fs.Lookup("a")
	must(t, err)
	c, err := f.content()
	must(t, err)
	for _, x := range c.extents {
		if x.sectors*sectorSize > maxExtent || x.at*sectorSize%holeSize != 0 {
			t.Errorf("extent %+v", x)
		}
	}
}

// The first of many files that cannot be read ends the work, and all are closed.
func TestCopyFails(t *testing.T) {
	wrong := errors.New("wrong")
	opened := make(chan int, 10_000)
	var entries []tree.Entry
	for i := range 2000 {
		n := &tree.Node{Mode: unix.S_IFREG, Size: int64(i%7) * 300_000}
		n.Data = counted{memory{data: make([]byte, n.Size), closed: func() { opened <- -1 }}, opened}
		if i == 700 {
			n.Size, n.Data = 1, failing{wrong}
		}
		entries = append(entries, tree.Entry{Name: fmt.Sprintf("%04d", i), Node: n})
	}
	err := Volume{}.Write(t.Context(), create(t), directory(entries...))
	if !errors.Is(err, wrong) || !strings.Contains(err.Error(), "/0700") {
		t.Errorf("error %v", err)
	}
	close(opened)
	left, all := 0, 0
	for n := range opened {
		left += n
		all++
	}
	if left != 0 || all < 500 {
		t.Errorf("of %d files opened and closed %d are left open", all, left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (Volume{}).Write(ctx, create(t), directory(entries[:600]...)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

type counted struct {
	memory
	opened chan int
}

func (c counted) Open() (tree.Content, error) {
	c.opened <- 1
	return c.memory.Open()
}

type failing struct{ err error }

func (f failing) Open() (tree.Content, error) { return nil, f.err }

func TestShortContents(t *testing.T) {
	for _, size := range []int64{2, 3 << 20} {
		n := &tree.Node{Mode: unix.S_IFREG, Size: size, Data: memory{data: []byte("x")}}
		err := Volume{}.Write(t.Context(), create(t), directory(tree.Entry{Name: "f", Node: n}))
		if !errors.Is(err, tree.ErrChanged) || errors.Is(err, io.EOF) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
