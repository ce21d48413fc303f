package image

import (
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/erofs"
	"containerd-shim-uni/builder/erofs/reader"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/builder/tree/treetest"
	"containerd-shim-uni/unikernel"
)

// holeSize is the length of a file without data, in bytes.
const holeSize = 64 << 20

// hostTree makes a directory with what an ordinary user can make.
func hostTree(t *testing.T) string {
	t.Helper()
	top := filepath.Join(t.TempDir(), "tree")
	at := func(name string) string { return filepath.Join(top, name) }
	must(t, os.MkdirAll(at("dir/sub"), 0o755))
	must(t, os.WriteFile(at("dir/f"), []byte("contents"), 0o640))
	must(t, os.Link(at("dir/f"), at("hard")))
	must(t, os.Symlink("/absolute/dangling", at("link")))
	must(t, os.Symlink("../../..", at("dir/sub/up")))
	must(t, os.WriteFile(at(strings.Repeat("n", 255)), nil, 0o4755))
	must(t, os.MkdirAll(at(strings.Repeat("d/", 100)+strings.Repeat("e", 200)), 0o700))
	must(t, os.Symlink(strings.Repeat("l/", 1000), at("longlink")))
	must(t, unix.Mkfifo(at("fifo"), 0o600))
	if err := unix.Setxattr(at("dir/f"), "user.name", []byte("value\x00\xff"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	random := make([]byte, 300_001)
	_, err := rand.Read(random)
	must(t, err)
	must(t, os.WriteFile(at("random"), random, 0o600))
	sparse, err := os.Create(at("sparse"))
	must(t, err)
	defer sparse.Close()
	for _, off := range []int64{0, 5<<20 + 77, 10 << 20} {
		_, err = sparse.WriteAt(random[:1000], off)
		must(t, err)
	}
	must(t, sparse.Truncate(12<<20+3))
	hole, err := os.Create(at("hole"))
	must(t, err)
	must(t, errors.Join(hole.Truncate(holeSize), hole.Close()))
	return top
}

// What GNU tar packs is what the tree becomes, in each of its formats.
func TestAgainstTar(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("tar is not installed")
	}
	top := hostTree(t)
	for name, args := range map[string][]string{
		"gnu":        {"--format=gnu"},
		"gnu sparse": {"--format=gnu", "--sparse"},
		"pax":        {"--format=pax", "--xattrs", "--sparse", "--sparse-version=1.0"},
		"pax 0.1":    {"--format=pax", "--xattrs", "--sparse", "--sparse-version=0.1"},
		"pax 0.0":    {"--format=pax", "--xattrs", "--sparse", "--sparse-version=0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "layer.tar")
			out, err := exec.CommandContext(t.Context(), "tar", append(args, "-C", top, "--numeric-owner", "-cf", file, ".")...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			data, err := os.ReadFile(file)
			must(t, err)
			got, err := flattenLayers(t, data)
			must(t, err)
			want, err := tree.Scan(t.Context(), top)
			must(t, err)
			want.Child("hole").Size, want.Child("hole").Data = 0, nil // compared apart
			checkHole(t, got)
			for _, line := range treetest.Diff(forFormat(want, name), forFormat(got, name)) {
				t.Error(line)
			}
		})
	}
}

// forFormat leaves out what a format cannot say.
func forFormat(root *tree.Node, format string) *tree.Node {
	if strings.HasPrefix(format, "pax") {
		return root
	}
	_ = root.Walk(func(_ string, n *tree.Node) error {
		n.MtimeNsec, n.Xattrs = 0, nil
		return nil
	})
	return root
}

// checkHole checks the file of 64 MiB without data, and that it costs nothing in
// a disk.
func checkHole(t *testing.T, root *tree.Node) {
	t.Helper()
	hole := root.Child("hole")
	if hole == nil || hole.Size != holeSize {
		t.Fatalf("hole is %+v", hole)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	defer f.Close()
	must(t, erofs.Write(t.Context(), f, root))
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Size < holeSize || st.Blocks*512 > 5<<20 {
		t.Errorf("the disk has %d bytes and occupies %d", st.Size, st.Blocks*512)
	}
	fs, err := reader.Open(f, st.Size)
	must(t, err)
	again, err := fs.Tree(t.Context())
	must(t, err)
	hole.Size, hole.Data = 0, nil
	again.Child("hole").Size, again.Child("hole").Data = 0, nil
	for _, line := range treetest.Diff(root, again) {
		t.Errorf("read back: %s", line)
	}
}

// Holes beyond the bound are refused, not filled.
func TestHugeSparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("tar is not installed")
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	must(t, errors.Join(f.Truncate(maxSparse+1), f.Close()))
	for _, format := range []string{"--format=gnu", "--format=pax"} {
		file := filepath.Join(t.TempDir(), "layer.tar")
		if out, err := exec.CommandContext(t.Context(), "tar", format, "--sparse", "-C", dir, "-cf", file, "f").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := os.ReadFile(file)
		must(t, err)
		if _, err := flattenLayers(t, data); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "256 GiB") {
			t.Errorf("%s: error %v", format, err)
		}
	}
}
