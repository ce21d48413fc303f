package tfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
)

func directory(entries ...tree.Entry) *tree.Node {
	return &tree.Node{Mode: unix.S_IFDIR | 0o755, Entries: entries}
}

// strange is a tree with everything a kernel's file system has no place for.
func strange() *tree.Node {
	file := func(links uint32) *tree.Node { return &tree.Node{Mode: unix.S_IFREG, Links: links} }
	linked := file(2)
	linked.Xattrs = []tree.Xattr{{Name: "security.capability", Value: "x"}, {Name: "user.a", Value: "\x00b"}, {Name: "user.empty"}}
	return directory(
		tree.Entry{Name: "a", Node: linked},
		tree.Entry{Name: "dev", Node: directory(tree.Entry{Name: "hard", Node: linked}, tree.Entry{Name: "null", Node: file(1)})},
		tree.Entry{Name: "device", Node: &tree.Node{Mode: unix.S_IFCHR}},
		tree.Entry{Name: "pipe", Node: &tree.Node{Mode: unix.S_IFIFO}},
		tree.Entry{Name: "proc", Node: file(1)},
		tree.Entry{Name: "usr", Node: directory(tree.Entry{Name: "dev", Node: directory(tree.Entry{Name: "f", Node: file(1)})})},
	)
}

func listing(t *testing.T, f File, at string) (all []string) {
	t.Helper()
	for _, name := range f.Names() {
		kid, _ := f.Child(name)
		mark := ""
		if kid.IsDir() {
			mark = "/"
		}
		all = append(append(all, at+name+mark), listing(t, kid, at+name+mark)...)
	}
	return all
}

func TestWhatIsStored(t *testing.T) {
	f := create(t)
	must(t, testDisk.Write(t.Context(), f, strange()))
	root := open(t, f).Root
	if got := strings.Join(listing(t, root.Top(), ""), " "); got != "a dev/ proc/ usr/ usr/dev/ usr/dev/f" {
		t.Errorf("the disk holds %s", got)
	}
	a, err := root.Lookup("a")
	must(t, err)
	if got := fmt.Sprintf("%q", a.Xattrs()); got != `map["user.a":"\x00b" "user.empty":""]` {
		t.Errorf("attributes %s", got)
	}
	if a.t.Get(attrLinks) != nil {
		t.Errorf("a file with one name that is stored has %v links", a.t.Get(attrLinks))
	}
}

func TestVolume(t *testing.T) {
	f, v := create(t), Volume{Label: "data", UUID: [16]byte{1, 2, 15: 9}, Size: 3 << 20}
	must(t, v.Write(t.Context(), f, strange()))
	st, err := os.Stat(f.Name())
	must(t, err)
	fs, err := Read(f, 0, st.Size())
	must(t, err)
	if got := strings.Join(listing(t, fs.Top(), ""), " "); got != "a dev/ dev/hard dev/null proc usr/ usr/dev/ usr/dev/f" {
		t.Errorf("the volume holds %s", got)
	}
	a, err := fs.Lookup("a")
	must(t, err)
	if st.Size() != v.Size || fs.Label != v.Label || fs.UUID != v.UUID || a.t.Get(attrLinks) != uint64(2) {
		t.Errorf("%d bytes, label %q, UUID %x, %v links", st.Size(), fs.Label, fs.UUID, a.t.Get(attrLinks))
	}
	for name, tt := range map[string]struct {
		v    Volume
		want error
	}{
		"small": {Volume{Size: 1 << 20}, unix.ENOSPC}, "odd": {Volume{Size: 1}, ErrFormat}, "label": {Volume{Label: "a\x00"}, ErrFormat},
	} {
		if err := tt.v.Write(t.Context(), create(t), strange()); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCollectRefuses(t *testing.T) {
	deep := directory()
	for range maxDepth + 1 {
		deep = directory(tree.Entry{Name: "d", Node: deep})
	}
	for name, tt := range map[string]struct {
		root *tree.Node
		want string
	}{
		"file":        {&tree.Node{Mode: unix.S_IFREG}, "not a directory"},
		"deep":        {deep, "directories deep"},
		"name":        {directory(tree.Entry{Name: "a/b", Node: directory()}), "not a file name"},
		"no contents": {directory(tree.Entry{Name: "f", Node: &tree.Node{Mode: unix.S_IFREG, Size: 1}}), "without contents"},
	} {
		if err := testDisk.Write(t.Context(), create(t), tt.root); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
