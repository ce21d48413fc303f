package reader_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel/boundtest"

	"golang.org/x/sys/unix"
)

// sparse is a disk of which only the start is not zero.
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

// repeated is a disk whose blocks behind the start are all the same, as a few
// kilobytes of qcow2 can make one.
type repeated struct {
	sparse
	block []byte
}

func (r repeated) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.sparse.ReadAt(p, off)
	for i := range p[:n] {
		if at := off + int64(i); at >= int64(len(r.start)) {
			p[i] = r.block[at%int64(len(r.block))]
		}
	}
	return n, err
}

// claim makes the root directory say that it has this size, on a disk that is
// larger.
func claim(good []byte, size int64, at uint32) (start []byte, diskSize int64) {
	le := binary.LittleEndian
	b := bytes.Clone(good)
	root := int(le.Uint16(b[1024+14:])) * 32
	b[root] = 1 // extended, data in blocks
	le.PutUint64(b[root+8:], uint64(size))
	le.PutUint32(b[root+16:], at)
	blocks := int64(at) + size/4096 + 1
	le.PutUint32(b[1024+36:], uint32(blocks))
	seal(b)
	return b, blocks * 4096
}

// A directory that claims to be of any size costs no more than a small one, and
// is an error.
func TestClaimedDirectory(t *testing.T) {
	good := image(t, sample(t))
	blocks := uint32(len(good) / 4096)
	listing := bytes.Repeat([]byte{0}, 4096) // one block of a directory, valid by itself
	le := binary.LittleEndian
	le.PutUint64(listing, 40)
	le.PutUint16(listing[8:], 12)
	listing[10] = 1
	copy(listing[12:], "m")
	for _, size := range []int64{1 << 20, 5 << 20, 1 << 30, 1 << 40} {
		start, total := claim(good, size, blocks)
		for name, disk := range map[string]io.ReaderAt{"zeros": sparse{start, total}, "repeated": repeated{sparse{start, total}, listing}} {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				boundtest.Most(t, 100<<10, func() {
					fs, err := reader.Open(disk, total)
					if err != nil {
						t.Fatal(err)
					}
					for _, path := range []string{"/a/inline", "/zzz", "/A"} {
						if _, _, err := fs.Lookup(path); !errors.Is(err, reader.ErrFormat) && !errors.Is(err, unix.ENOENT) {
							t.Errorf("%s: %v", path, err)
						}
					}
					if size > 4<<20 || name == "zeros" {
						if _, _, err := fs.Lookup("/"); !errors.Is(err, reader.ErrFormat) {
							t.Errorf("list: %v", err)
						}
					}
					if _, err := fs.Tree(t.Context()); !errors.Is(err, reader.ErrFormat) {
						t.Errorf("tree: %v", err)
					}
				})
			})
		}
	}
}

// A directory of many blocks is searched from its ends and in its middle.
func TestLookupInMany(t *testing.T) {
	dir := t.TempDir()
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d", 2*i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data := image(t, dir)
	fs, err := reader.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6000 {
		name := fmt.Sprintf("file-%04d", i)
		if _, _, err := fs.Lookup(name); (err == nil) != (i%2 == 0) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "/"} {
		if n, _, err := fs.Lookup(name); err != nil || len(n.Entries) != 3000 {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzLookup changes sizes and places that inodes claim.
func FuzzLookup(f *testing.F) {
	good := image(f, sample(f))
	f.Add(uint64(1)<<40, uint32(1), uint16(0), uint16(8), []byte{1, 2})
	f.Add(uint64(12), uint32(0), uint16(64), uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, size uint64, at uint32, offset, field uint16, patch []byte) {
		start, _ := claim(good, int64(size%(1<<44)), at)
		copy(start[min(int(offset)*16+int(field%32), len(start)):], patch)
		seal(start)
		disk := sparse{start, 1 << 45}
		boundtest.Most(t, 64<<20, func() {
			fs, err := reader.Open(disk, disk.size)
			if err != nil {
				return
			}
			for _, path := range []string{"/", "/a/b/empty", "hard", "/a/link/x", "/zz"} {
				n, at, err := fs.Lookup(path)
				var absent unix.Errno
				if err != nil && !errors.Is(err, reader.ErrFormat) && !errors.As(err, &absent) {
					t.Errorf("%s: %v", path, err)
				}
				if err == nil && (n == nil || at == "") {
					t.Errorf("%s: nothing at %q", path, at)
				}
			}
			if _, err := fs.Tree(t.Context()); err != nil && !errors.Is(err, reader.ErrFormat) && !errors.Is(err, tree.ErrTooLarge) {
				t.Errorf("tree: %v", err)
			}
		})
	})
}
