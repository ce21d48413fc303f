package tfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"containerd-shim-uni/builder/tree"
)

// smallDisk is a disk to begin with, as short as it can be.
func smallDisk(t testing.TB) []byte {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o644))
	must(t, os.Symlink("f", filepath.Join(dir, "l")))
	data, err := os.ReadFile(writeDisk(t, dir).Name())
	must(t, err)
	return data
}

// FuzzLog reads logs of one extension, which is all the reader needs to go
// wrong in a record.
func FuzzLog(f *testing.F) {
	data := smallDisk(f)[rootPartition:]
	first := roundUp(firstData*sectorSize+4, pageSize)
	f.Add(data[first : first+1024])
	e := newEncoder()
	e.tuple(2)
	e.settings(Settings{{attrChildren, Settings{{"d", Settings{{attrExtents, Settings{}}}}}}, {"v", Vector{"a"}}})
	f.Add(append(appendFrame(newExtension(nil, extensionSize), e.b, len(e.b), true), frameEnd))
	f.Fuzz(func(t *testing.T, log []byte) {
		if len(log) > extensionSize {
			return
		}
		disk := make([]byte, 4096+extensionSize)
		copy(disk[4096:], log)
		head := append(newExtension(nil, sectorSize), make([]byte, uuidSize+1)...)
		copy(disk, appendLink(head, 8))
		fs, err := Read(bytes.NewReader(disk), 0, int64(len(disk)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v is no ErrFormat", err)
			}
			return
		}
		walk(t, fs.Top(), 0)
		readTree(t, fs)
		for _, path := range []string{"a/b", "/f", "l/../l"} {
			_, _ = fs.Lookup(path)
			_, _, _ = fs.place(path)
		}
	})
}

// readTree reads all of a tree that is one, as far as contents are not long.
func readTree(t *testing.T, fs *FS) {
	root, err := fs.Tree(t.Context())
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatalf("%v is no ErrFormat", err)
		}
		return
	}
	must(t, root.Walk(func(path string, n *tree.Node) error {
		if n.Data == nil {
			return nil
		}
		c, err := n.Data.Open()
		if err != nil {
			return nil
		}
		for pos := int64(0); pos < n.Size && pos < 1<<20; {
			start, end, err := c.(tree.Sparse).NextData(pos, n.Size)
			if err != nil || start < pos || end > n.Size || start < n.Size && end <= start {
				t.Fatalf("%q: data from %d to %d behind %d of %d, %v", path, start, end, pos, n.Size, err)
			}
			_, _ = c.ReadAt(make([]byte, 4096), start)
			pos = max(end, pos+1)
		}
		return nil
	}))
	_ = Volume{}.Write(t.Context(), create(t), withoutContents(root))
}

// withoutContents empties the files of a tree.
func withoutContents(root *tree.Node) *tree.Node {
	_ = root.Walk(func(_ string, n *tree.Node) error { // never fails
		n.Size, n.Data = 0, nil
		return nil
	})
	return root
}

// walk reads a little of everything; a tree may hold itself.
func walk(t *testing.T, f File, depth int) {
	if depth > 5 {
		return
	}
	for i, name := range f.Names() {
		kid, ok := f.Child(name)
		if !ok || i > 10 {
			break
		}
		kid.Mtime()
		kid.Xattrs()
		if r, err := kid.Reader(); err == nil {
			_, _ = io.CopyN(io.Discard, r, 8192)
		}
		walk(t, kid, depth+1)
	}
}

func FuzzDisk(f *testing.F) {
	data := smallDisk(f)
	f.Add(uint32(tableOffset), []byte{0x80})
	f.Add(uint32(rootPartition+10), []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		disk := bytes.Clone(data)
		if int64(at) < int64(len(disk)) {
			copy(disk[at:], patch)
		}
		m, err := Open(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v is no ErrFormat", err)
			}
			return
		}
		readTree(t, m.Root)
		_, _ = m.Append(Config{Files: []NewFile{{Path: "/a/b", Data: []byte("x")}, {Path: "/a/c", Target: "b"}}, Directories: []string{"/a/d"}})
	})
}
