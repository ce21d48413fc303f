package erofs

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/builder/tree/treetest"
)

// memory is a file's contents.
type memory []byte

func (m memory) Open() (tree.Content, error) {
	return struct {
		io.ReaderAt
		io.Closer
	}{bytes.NewReader(m), io.NopCloser(nil)}, nil
}

// grower makes a tree of bytes: each decides something, and zeros follow.
type grower struct {
	data  []byte
	files []*tree.Node // that can have another name
}

func (g *grower) byte() int {
	if len(g.data) == 0 {
		return 0
	}
	b := g.data[0]
	g.data = g.data[1:]
	return int(b)
}

func (g *grower) word() int { return g.byte()<<8 | g.byte() }

// text is one of a byte repeated, of up to most bytes and at least one.
func (g *grower) text(most int) string {
	return strings.Repeat(string([]byte{"aAbz.-!~\xff\n 0"[g.byte()%12]}), 1+g.word()%most)
}

func (g *grower) node(depth int) *tree.Node {
	n := &tree.Node{Mode: uint32(g.word() & 0o7777), UID: uint32(g.word()) << 13, GID: uint32(g.byte()), Links: 1,
		Mtime: int64(g.word())<<20 - 1<<32, MtimeNsec: uint32(g.word()) * 15258}
	for range g.byte() % 3 {
		name := []string{"user.", "trusted.", "security."}[g.byte()%3] + g.text(200)
		if !slices.ContainsFunc(n.Xattrs, func(x tree.Xattr) bool { return x.Name == name }) {
			n.Xattrs = append(n.Xattrs, tree.Xattr{Name: name, Value: g.text(5000)})
		}
	}
	slices.SortFunc(n.Xattrs, func(a, b tree.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	kind := g.byte() % 7
	if depth > 8 && kind == 1 {
		kind = 0
	}
	switch kind {
	case 0:
		n.Mode |= unix.S_IFREG
		if n.Size = int64(g.word() % 20_000); n.Size > 0 {
			n.Data = memory(strings.Repeat("x", int(n.Size)))
		}
	case 1:
		n.Mode, n.Links = n.Mode|unix.S_IFDIR, 0
		g.fill(n, depth+1)
	case 2:
		n.Mode, n.Target = n.Mode|unix.S_IFLNK, g.text(4095)
	case 3, 4:
		n.Mode |= []uint32{unix.S_IFCHR, unix.S_IFBLK}[kind-3]
		n.Major, n.Minor = uint32(g.word())&0xfff, uint32(g.word())<<4&0xfffff
	case 5:
		n.Mode |= unix.S_IFIFO
	case 6:
		n.Mode |= unix.S_IFSOCK
	}
	return n
}

func (g *grower) fill(dir *tree.Node, depth int) {
	names := map[string]bool{".": true, "..": true}
	for range g.byte() % 60 {
		name := g.text(255)
		if names[name] {
			continue
		}
		names[name] = true
		if n := len(g.files); n > 0 && g.byte()%4 == 0 {
			old := g.files[g.byte()%n]
			old.Links++
			dir.Entries = append(dir.Entries, tree.Entry{Name: name, Node: old})
			continue
		}
		kid := g.node(depth)
		if !kid.IsDir() {
			g.files = append(g.files, kid)
		}
		dir.Entries = append(dir.Entries, tree.Entry{Name: name, Node: kid})
	}
	slices.SortFunc(dir.Entries, func(a, b tree.Entry) int { return cmp.Compare(a.Name, b.Name) })
}

// FuzzWrite writes trees of all shapes, and reads back the same.
func FuzzWrite(f *testing.F) {
	f.Add([]byte("\x00"))
	f.Add([]byte(strings.Repeat("\x05\x01\x02\x03\x00\x10\x20\x07", 100)))
	f.Add(bytes.Repeat([]byte{59, 1, 200, 3, 77, 0, 9, 2, 1, 1}, 60))
	f.Fuzz(func(t *testing.T, data []byte) {
		root := &tree.Node{Mode: unix.S_IFDIR | 0o755}
		g := grower{data: data}
		g.fill(root, 0)
		out, err := os.Create(filepath.Join(t.TempDir(), "image"))
		must(t, err)
		defer out.Close()
		must(t, Write(t.Context(), out, root))
		st, err := out.Stat()
		must(t, err)
		fs, err := reader.Open(out, st.Size())
		must(t, err)
		got, err := fs.Tree(t.Context())
		must(t, err)
		if lines := treetest.Diff(root, got); len(lines) > 0 {
			t.Errorf("differs:\n%s", strings.Join(lines[:min(len(lines), 5)], "\n"))
		}
		must(t, root.Walk(func(path string, n *tree.Node) error {
			if n.IsLink() {
				return nil
			}
			found, at, err := fs.Lookup(path)
			if err != nil || at != path || found.Mode != n.Mode {
				t.Errorf("%.100q: %v", path, err)
			}
			return nil
		}))
	})
}
