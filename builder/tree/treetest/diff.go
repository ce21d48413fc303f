package treetest

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"containerd-shim-uni/builder/tree"
)

// Diff says how two trees differ, contents and hard links included, a line for
// each difference.
func Diff(want, got *tree.Node) []string {
	d := differ{gotOf: map[*tree.Node]*tree.Node{}, wantOf: map[*tree.Node]*tree.Node{}}
	d.node("/", want, got)
	return d.lines
}

type differ struct {
	lines         []string
	gotOf, wantOf map[*tree.Node]*tree.Node
}

func (d *differ) add(path, format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf("%.200q: ", path)+fmt.Sprintf(format, args...))
}

func (d *differ) node(path string, want, got *tree.Node) {
	if d.gotOf[want] != nil || d.wantOf[got] != nil {
		if d.gotOf[want] != got || d.wantOf[got] != want {
			d.add(path, "linked to another file")
		}
		return
	}
	d.gotOf[want], d.wantOf[got] = got, want
	if a, b := describe(want), describe(got); a != b {
		d.add(path, "got %s, want %s", b, a)
	}
	if !slices.Equal(want.Xattrs, got.Xattrs) {
		d.add(path, "got attributes %q, want %q", got.Xattrs, want.Xattrs)
	}
	if want.IsFile() && got.IsFile() {
		a, aerr := read(want)
		b, berr := read(got)
		if aerr != nil || berr != nil || !bytes.Equal(a, b) {
			d.add(path, "contents differ: %v, %v", aerr, berr)
		}
	}
	for _, e := range want.Entries {
		kid := got.Child(e.Name)
		if kid == nil {
			d.add(path+e.Name, "is missing")
			continue
		}
		d.node(path+e.Name+"/", e.Node, kid)
	}
	for _, e := range got.Entries {
		if want.Child(e.Name) == nil {
			d.add(path+e.Name, "should not be")
		}
	}
}

func describe(n *tree.Node) string {
	links := n.Links
	if n.IsDir() {
		links = 0
	}
	return fmt.Sprintf("mode %#o owner %d:%d time %d.%09d size %d links %d device %d:%d target %.100q",
		n.Mode, n.UID, n.GID, n.Mtime, n.MtimeNsec, n.Size, links, n.Major, n.Minor, n.Target)
}

func read(n *tree.Node) ([]byte, error) {
	r, err := n.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
