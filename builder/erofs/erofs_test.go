package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/builder/tree/treetest"
)

var someTime = time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)

// makeTree makes a tree with everything that needs no root. The order of
// creation is reversed by reverse, which must not show in an image.
func makeTree(t *testing.T, reverse bool) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]int{"a/f": 3, "!first": 1, "-": 2, "empty": 0, "dir/one-block": 4096, "dir/two": 8192,
		"dir/tail": 4097, "dir/almost": 8191, "dir/inline": 4000, "dir/too-long-inline": 4050, "big": 3<<20 + 5,
		"new\nline": 7, "not\xff\xfeutf8": 9, strings.Repeat("n", 255): 11, "dir/sub/deep/er": 100}
	for i := range 700 { // several blocks of directory
		files[fmt.Sprintf("many/%s%03d", strings.Repeat("x", i%40), i)] = i * 13 % 5000
	}
	names := slices.Sorted(maps.Keys(files))
	if reverse {
		slices.Reverse(names)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, bytes.Repeat([]byte(name[:1]+"."), files[name])[:files[name]], 0o640))
	}
	must(t, os.Mkdir(filepath.Join(dir, "emptydir"), 0o700))
	must(t, os.Link(filepath.Join(dir, "a/f"), filepath.Join(dir, "a/hard")))
	must(t, os.Link(filepath.Join(dir, "a/f"), filepath.Join(dir, "hard2")))
	must(t, os.Symlink("/absolute/dangling", filepath.Join(dir, "absolute")))
	must(t, os.Symlink("a/f", filepath.Join(dir, "relative")))
	must(t, os.Symlink(strings.Repeat("l", 4095), filepath.Join(dir, "longlink")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.Chmod(filepath.Join(dir, "a/f"), 0o4755|fs.ModeSetuid))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, sparse.Truncate(20<<20))
	_, err = sparse.WriteAt([]byte("middle"), 9<<20)
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 20<<20)
	must(t, err)
	must(t, sparse.Close())
	setTimes(t, dir)
	return dir
}

// setTimes gives every file of a tree the same time, links included.
func setTimes(t *testing.T, dir string) {
	t.Helper()
	ts := []unix.Timespec{unix.NsecToTimespec(someTime.UnixNano()), unix.NsecToTimespec(someTime.UnixNano())}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func writeImage(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, WriteDir(t.Context(), f, dir))
	return path
}

func readImage(t *testing.T, dir string) []byte {
	t.Helper()
	data, err := os.ReadFile(writeImage(t, dir))
	must(t, err)
	return data
}

// readTree reads an image back with the reader, which shares no code with the
// writer.
func readTree(t *testing.T, image []byte) *tree.Node {
	t.Helper()
	fs, err := reader.Open(bytes.NewReader(image), int64(len(image)))
	must(t, err)
	if fs.Size() != int64(len(image)) {
		t.Errorf("%d bytes of file system in %d bytes", fs.Size(), len(image))
	}
	root, err := fs.Tree(t.Context())
	must(t, err)
	return root
}

// compare writes a directory, reads it back and compares.
func compare(t *testing.T, dir string) {
	t.Helper()
	want, err := tree.Scan(t.Context(), dir)
	must(t, err)
	for _, line := range treetest.Diff(want, readTree(t, readImage(t, dir))) {
		t.Error(line)
	}
}

func TestWriteReadsBack(t *testing.T) { compare(t, makeTree(t, false)) }

func TestWriteIsDeterministic(t *testing.T) {
	a, b := readImage(t, makeTree(t, false)), readImage(t, makeTree(t, true))
	if !bytes.Equal(a, b) {
		t.Error("the same tree made in another order gives other bytes")
	}
}

func TestWriteKeepsHoles(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	must(t, f.Truncate(8<<30))
	_, err = f.WriteAt([]byte("x"), 5<<30)
	must(t, err)
	must(t, f.Close())
	var source, st unix.Stat_t
	must(t, unix.Stat(f.Name(), &source))
	if source.Blocks > 1<<11 {
		t.Skip("the temporary directory has no sparse files")
	}
	must(t, unix.Stat(writeImage(t, dir), &st))
	if st.Size < 8<<30 || st.Blocks > 1<<11 { // 1 MiB
		t.Errorf("the image has %d bytes in %d blocks of 512", st.Size, st.Blocks)
	}
}

func TestWriteXattrs(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{"user.a": "1", "user.empty": "", "user.long": strings.Repeat("v", 3000), "user." + strings.Repeat("n", 250): "x"}
	path := filepath.Join(dir, "f")
	must(t, os.WriteFile(path, []byte("data"), 0o600))
	for name, value := range want {
		if err := unix.Setxattr(path, name, []byte(value), 0); errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSPC) {
			t.Skipf("the temporary directory does not take the attributes: %v", err)
		} else {
			must(t, err)
		}
	}
	got := map[string]string{}
	root := readTree(t, readImage(t, dir))
	for _, x := range root.Child("f").Xattrs {
		got[x.Name] = x.Value
	}
	if !maps.Equal(got, want) {
		t.Errorf("attributes %q, want %q", got, want)
	}
	compare(t, dir)
}

func TestXattrNames(t *testing.T) {
	for name, want := range map[string]bool{
		"user.x": true, "trusted.x": true, "security.capability": true, "system.posix_acl_access": true,
		"system.nfs4_acl": false, "os2.x": false, "security.selinux": false, "trusted.overlay.opaque": false, "user.overlay.opaque": false,
	} {
		_, _, ok := splitXattr(name)
		if got := ok && !hostfs.HostXattr(name); got != want {
			t.Errorf("%s is kept: %v, want %v", name, got, want)
		}
	}
}

// Sockets have a path limit of their own, so this one gets a short directory.
func TestWriteSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "s")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	must(t, err)
	defer l.Close()
	compare(t, dir)
}

func TestWriteErrors(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	defer f.Close()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if err := WriteDir(t.Context(), f, file); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file as tree: %v", err)
	}
	if err := WriteDir(t.Context(), f, file+".missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing tree: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteDir(ctx, f, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
	huge := t.TempDir()
	h, err := os.Create(filepath.Join(huge, "h"))
	must(t, err)
	defer h.Close()
	if h.Truncate(15<<40) == nil { // where the host allows such files at all
		must(t, os.Link(h.Name(), h.Name()+"2"))
		h2, err := os.Create(h.Name() + "3")
		must(t, err)
		defer h2.Close()
		must(t, h2.Truncate(15<<40))
		if err := WriteDir(t.Context(), f, huge); !errors.Is(err, unix.EFBIG) {
			t.Errorf("30 TiB: %v", err)
		}
	}
}

func TestFileThatChanges(t *testing.T) {
	for _, size := range []int64{0, 5, 4095, 5000, 3 << 20} {
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		must(t, err)
		defer out.Close()
		for _, scanned := range []int64{size - 1, size + 1, size + 4096, 2*size + 1} {
			if scanned <= 0 {
				continue
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			must(t, os.WriteFile(path, make([]byte, scanned), 0o600))
			root, err := tree.Scan(t.Context(), dir)
			must(t, err)
			must(t, os.Truncate(path, size))
			if err := Write(t.Context(), out, root); !errors.Is(err, tree.ErrChanged) {
				t.Errorf("scanned with %d bytes, now %d: %v", scanned, size, err)
			}
		}
	}
}

// No two inodes or files overlap and no inline data crosses a block, whatever
// the sizes.
func TestLayout(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		nodes := make([]*node, 1+rnd.IntN(2000))
		for i := range nodes {
			nodes[i] = &node{Node: &tree.Node{Mode: unix.S_IFREG}, size: rnd.Int64N(3 * blockSize)}
			if rnd.IntN(4) == 0 {
				nodes[i].xattrs = make([]byte, 4*(3+rnd.IntN(3000)))
			}
		}
		blocks, err := layout(nodes)
		must(t, err)
		type span struct{ start, end uint64 }
		spans := []span{{0, superOffset + superSize}}
		for i, n := range nodes {
			start := n.nid * slotSize
			end := start + inodeSize + uint64(len(n.xattrs)+n.inline)
			if n.inline > 0 && start/blockSize != (end-1)/blockSize {
				t.Errorf("seed %d: inode %d with inline data crosses a block", seed, i)
			}
			spans = append(spans, span{start, end})
			if whole := uint64(n.size) - uint64(n.inline); whole > 0 {
				spans = append(spans, span{uint64(n.block) * blockSize, uint64(n.block)*blockSize + whole})
			}
		}
		slices.SortFunc(spans, func(a, b span) int { return int(a.start) - int(b.start) })
		for i := 1; i < len(spans); i++ {
			if spans[i].start < spans[i-1].end {
				t.Errorf("seed %d: %v overlaps %v", seed, spans[i], spans[i-1])
			}
		}
		if last := spans[len(spans)-1]; last.end > blocks*blockSize {
			t.Errorf("seed %d: %v is beyond %d blocks", seed, last, blocks)
		}
		if nodes[0].nid > 1<<16-1 {
			t.Errorf("seed %d: root has nid %d", seed, nodes[0].nid)
		}
	}
}

func TestEncodeDevice(t *testing.T) {
	for _, tt := range []struct {
		major, minor, want uint32
	}{{1, 3, 0x103}, {7, 0, 0x700}, {259, 300, 0x11032c}, {4095, 1<<20 - 1, 0xffffffff}} {
		if got := (&node{Node: &tree.Node{Major: tt.major, Minor: tt.minor}}).rdev(); got != tt.want {
			t.Errorf("%d:%d is %#x, want %#x", tt.major, tt.minor, got, tt.want)
		}
	}
}

// The tools of erofs-utils check and extract the image, where they are
// installed. They know nothing of this package.
func TestFsck(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("fsck.erofs is not installed")
	}
	dir := makeTree(t, false)
	// diff cannot compare FIFOs.
	must(t, os.Remove(filepath.Join(dir, "fifo")))
	setTimes(t, dir)
	im := writeImage(t, dir)
	out := filepath.Join(t.TempDir(), "x")
	if output, err := exec.CommandContext(t.Context(), fsck, "--extract="+out, im).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, output)
	}
	if output, err := exec.CommandContext(t.Context(), "diff", "-r", "--no-dereference", dir, out).CombinedOutput(); err != nil {
		t.Errorf("the extracted tree differs: %v\n%.2000s", err, output)
	}
}
