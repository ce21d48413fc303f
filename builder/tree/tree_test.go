package tree

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/builder/hostfs/hostfstest"

	"golang.org/x/sys/unix"
)

func scanned(t *testing.T) *Node {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755),
		os.WriteFile(filepath.Join(dir, "usr/lib/f"), []byte("x"), 0o600),
		os.Symlink("usr/lib", filepath.Join(dir, "lib")),
		os.Symlink("/lib", filepath.Join(dir, "usr/abs")),
		os.Symlink("../../../../usr", filepath.Join(dir, "usr/up")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink("/no/where", filepath.Join(dir, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := Scan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestLookup(t *testing.T) {
	root := scanned(t)
	for name, want := range map[string]string{
		"/": "/", "": "/", "..": "/", "/usr/./lib/": "/usr/lib", "/lib/f": "/usr/lib/f", "usr/abs/f": "/usr/lib/f",
		"/usr/up/lib/f": "/usr/lib/f", "/lib/../lib/f": "/usr/lib/f", "/../../usr/../lib": "/usr/lib",
	} {
		if n, at, err := root.Lookup(name); err != nil || at != want || n == nil {
			t.Errorf("%q is %q, %v, want %q", name, at, err, want)
		}
	}
	for name, want := range map[string]error{"/loop": unix.ELOOP, "/dangling": unix.ENOENT, "/no": unix.ENOENT, "/lib/f/x": unix.ENOTDIR, "/lib/f/..": unix.ENOTDIR} {
		if _, _, err := root.Lookup(name); !errors.Is(err, want) {
			t.Errorf("%q: error %v, want %v", name, err, want)
		}
	}
}

func TestWalk(t *testing.T) {
	var all []string
	stop := errors.New("stop")
	root := scanned(t)
	err := root.Walk(func(path string, n *Node) error {
		if all = append(all, path); path == "/usr/lib/f" {
			return stop
		}
		return nil
	})
	want := strings.Fields("/ /dangling /lib /loop /usr /usr/abs /usr/lib /usr/lib/f")
	if !errors.Is(err, stop) || !slices.Equal(all, want) {
		t.Errorf("%q, %v, want %q", all, err, want)
	}
}

func TestCheckEntries(t *testing.T) {
	list := func(names ...string) (all []Entry) {
		for _, name := range names {
			all = append(all, Entry{name, nil})
		}
		return all
	}
	for _, good := range [][]Entry{nil, list("!", "-", "a", strings.Repeat("b", MaxName), "\xff")} {
		if err := CheckEntries(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range [][]Entry{list(""), list("."), list(".."), list("a/b"), list("a\x00"), list("b", "a"), list("a", "a"),
		list(strings.Repeat("b", MaxName+1))} {
		if CheckEntries(bad) == nil {
			t.Errorf("the last of %d passes: %.20q", len(bad), bad[len(bad)-1].Name)
		}
	}
}

func TestPathOf(t *testing.T) {
	root := scanned(t)
	f, at, err := root.Lookup("/usr/lib/f")
	if err != nil || root.PathOf(f) != at || root.PathOf(&Node{}) != "" {
		t.Errorf("%q is %q, %v", at, root.PathOf(f), err)
	}
}

// TestLongPaths: files are found and opened however long their paths are.
func TestLongPaths(t *testing.T) {
	dir := t.TempDir()
	hostfstest.Deep(t, dir, 100)
	n, err := Scan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		n = n.Entries[0].Node
	}
	c, err := n.Entries[0].Node.Data.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 4)
	if _, err := c.ReadAt(data, 0); err != nil || string(data) != "deep" {
		t.Errorf("%q, %v", data, err)
	}
}
