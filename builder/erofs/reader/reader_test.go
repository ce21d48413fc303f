package reader_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/builder/erofs"
	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/builder/tree/treetest"

	"golang.org/x/sys/unix"
)

// sample makes a small directory with most kinds of nodes.
func sample(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o755),
		os.WriteFile(filepath.Join(dir, "a/inline"), []byte("inline"), 0o600),
		os.WriteFile(filepath.Join(dir, "a/blocks"), bytes.Repeat([]byte("x"), 9000), 0o600),
		os.WriteFile(filepath.Join(dir, "a/b/empty"), nil, 0o600),
		os.Link(filepath.Join(dir, "a/inline"), filepath.Join(dir, "hard")),
		os.Symlink("../up", filepath.Join(dir, "a/link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func image(t testing.TB, dir string) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := erofs.WriteDir(t.Context(), f, dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readAll reads a file system, contents included.
func readAll(t testing.TB, data []byte) error {
	fs, err := reader.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	root, err := fs.Tree(t.Context())
	if err != nil {
		return err
	}
	return root.Walk(func(_ string, n *tree.Node) error {
		if !n.IsFile() {
			return nil
		}
		r, err := n.Reader()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		return err
	})
}

// seal corrects the checksum of the superblock.
func seal(data []byte) {
	le := binary.LittleEndian
	clear(data[1028:1032])
	le.PutUint32(data[1028:], ^crc32.Checksum(data[1024:4096], crc32.MakeTable(crc32.Castagnoli)))
}

// Each damage is found, and none is a panic.
func TestDamage(t *testing.T) {
	good := image(t, sample(t))
	if err := readAll(t, good); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	root := int(le.Uint16(good[1024+14:])) * 32
	tests := []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"cut off", func(b []byte) []byte { return b[:len(b)-4096] }},
		{"magic", func(b []byte) []byte { b[1024]++; return b }},
		{"checksum", func(b []byte) []byte { b[1028]++; return b }},
		{"blocks of 512", func(b []byte) []byte { b[1024+12] = 9; seal(b); return b }},
		{"unknown feature", func(b []byte) []byte { b[1024+80] = 1; seal(b); return b }},
		{"root outside", func(b []byte) []byte { le.PutUint16(b[1024+14:], 0xffff); seal(b); return b }},
		{"count of inodes", func(b []byte) []byte { b[1024+16]++; seal(b); return b }},
		{"root is a file", func(b []byte) []byte { le.PutUint16(b[root+4:], 0o100644); seal(b); return b }},
		{"huge root", func(b []byte) []byte { le.PutUint64(b[root+8:], 1<<40); seal(b); return b }},
		{"negative size", func(b []byte) []byte { le.PutUint64(b[root+8:], 1<<63); seal(b); return b }},
		{"layout", func(b []byte) []byte { b[root] = 1 | 4<<1; seal(b); return b }},
		{"links", func(b []byte) []byte { b[root+44]++; seal(b); return b }},
		{"no dots", func(b []byte) []byte { i := bytes.Index(b[root:], []byte("...")); b[root+i] = 'x'; seal(b); return b }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := readAll(t, tt.damage(bytes.Clone(good))); !errors.Is(err, reader.ErrFormat) {
				t.Errorf("error %v, want ErrFormat", err)
			}
		})
	}
}

// A directory that is its own child ends.
func TestCycle(t *testing.T) {
	data := image(t, sample(t))
	le := binary.LittleEndian
	nid := uint64(le.Uint16(data[1024+14:]))
	block := data[nid*32+64:]
	for at := 0; at < int(le.Uint16(block[8:])); at += 12 {
		le.PutUint64(block[at:], nid)
		block[at+10] = 2
	}
	seal(data)
	if err := readAll(t, data); !errors.Is(err, reader.ErrFormat) {
		t.Errorf("error %v, want ErrFormat", err)
	}
}

// What mkfs.erofs writes is read, where it is installed.
func TestMkfs(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.erofs")
	if err != nil {
		t.Skip("mkfs.erofs is not installed")
	}
	dir := sample(t)
	want, err := tree.Scan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	// Extended inodes keep the times.
	file := filepath.Join(t.TempDir(), "image")
	out, err := exec.CommandContext(t.Context(), mkfs, "-E", "force-inode-extended", file, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := reader.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := fs.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if lines := treetest.Diff(want, got); len(lines) > 0 {
		t.Errorf("differs:\n%s", strings.Join(lines, "\n"))
	}
}

// Lookup finds what is found in the whole tree.
func TestLookup(t *testing.T) {
	data := image(t, sample(t))
	fs, err := reader.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	root, err := fs.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/", "a", "/a/b/", "/a/../hard", "/a/inline", "a/b/empty", "/a/inline/x", "/none", "/a/link", ""} {
		want, wantAt, wantErr := root.Lookup(name)
		got, at, err := fs.Lookup(name)
		if err != wantErr || at != wantAt {
			t.Errorf("%q: %q, %v, want %q, %v", name, at, err, wantAt, wantErr)
			continue
		}
		if err != nil {
			continue
		}
		if got.Mode != want.Mode || got.Size != want.Size || got.Mtime != want.Mtime {
			t.Errorf("%q: %+v, want %+v", name, got, want)
		}
		names := func(n *tree.Node) (list []string) {
			for _, e := range n.Entries {
				list = append(list, e.Name)
			}
			return list
		}
		if g, w := names(got), names(want); !slices.Equal(g, w) {
			t.Errorf("%q holds %q, want %q", name, g, w)
		}
	}
}

func FuzzTree(f *testing.F) {
	data := image(f, sample(f))
	f.Add(data)
	f.Add(data[:4096])
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 4096 {
			seal(data) // else nothing gets past it
		}
		if err := readAll(t, data); err != nil && !errors.Is(err, reader.ErrFormat) {
			t.Errorf("error %v is no ErrFormat", err)
		}
		if fs, err := reader.Open(bytes.NewReader(data), int64(len(data))); err == nil {
			var absent unix.Errno
			if _, _, err := fs.Lookup("/a/link/../b"); err != nil && !errors.Is(err, reader.ErrFormat) && !errors.As(err, &absent) {
				t.Errorf("error %v is no ErrFormat", err)
			}
		}
	})
}
