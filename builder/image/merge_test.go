package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

type layers [][]entry

func TestMerge(t *testing.T) {
	tests := []struct {
		name   string
		layers layers
		want   string
	}{
		{"no layers", nil, ""},
		{"files", layers{{dir("a"), file("a/f", "1"), file("./b", "2"), file("/c", "3")}}, "a/ a/f=1 b=2 c=3"},
		{"missing parents", layers{{file("a/b/f", "1")}}, "a/ a/b/ a/b/f=1"},
		{"later wins", layers{{file("f", "1")}, {file("f", "22")}}, "f=22"},
		{"twice in a layer", layers{{file("f", "1"), file("f", "2")}}, "f=2"},
		{"directory stays", layers{{dir("d"), file("d/f", "1")}, {dir("d"), file("d/g", "2")}}, "d/ d/f=1 d/g=2"},
		{"file for directory", layers{{dir("d"), file("d/f", "1")}, {file("d", "2")}}, "d=2"},
		{"directory for file", layers{{file("d", "2")}, {dir("d"), file("d/f", "1")}}, "d/ d/f=1"},
		{"directory for link", layers{{dir("x"), file("x/f", "1"), link("d", "x")}, {dir("d")}}, "d/ x/ x/f=1"},

		{"whiteout", layers{{file("f", "1"), file("g", "1")}, {file(".wh.f", "")}}, "g=1"},
		{"whiteout of a directory", layers{{dir("d"), file("d/f", "1")}, {file(".wh.d", "")}}, ""},
		{"whiteout of nothing there", layers{{file("f", "")}, {file(".wh.x", ""), file("no/.wh.x", "")}}, "f= no/"},
		{"whiteout before the new", layers{{dir("d"), file("d/f", "1")}, {file(".wh.d", ""), dir("d"), file("d/g", "2")}}, "d/ d/g=2"},
		{"whiteout behind the new", layers{{dir("d"), file("d/f", "1")}, {dir("d"), file("d/g", "2"), file(".wh.d", "")}}, "d/ d/g=2"},
		{"whiteout in the same layer", layers{{file("f", "1"), file(".wh.f", "")}}, "f=1"},
		{"whiteout through a link", layers{{dir("usr/lib"), file("usr/lib/f", ""), link("lib", "usr/lib")}, {file("lib/.wh.f", "")}}, "lib>usr/lib usr/ usr/lib/"},
		{"whiteout of a link", layers{{dir("d"), file("d/f", "1"), link("l", "d")}, {file(".wh.l", "")}}, "d/ d/f=1"},
		{"whiteout of one hard link", layers{{file("f", "1"), hard("g", "f")}, {file(".wh.f", "")}}, "g=1"},
		{"opaque", layers{{dir("d"), file("d/f", "1"), dir("d/s"), file("d/s/x", "")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/g", "2")}}, "d/ d/g=2"},
		{"opaque behind the new", layers{{dir("d"), file("d/f", "1")}, {file("d/g", "2"), file("d/.wh..wh..opq", "")}}, "d/ d/g=2"},
		{"opaque root", layers{{file("f", "1")}, {file(".wh..wh..opq", ""), file("g", "2")}}, "g=2"},
		{"opaque keeps what is below new", layers{{file("d/a/old", "")}, {file("d/a/new", ""), file("d/.wh..wh..opq", "")}}, "d/ d/a/ d/a/new="},
		{"aufs", layers{{file("f", ""), file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1", "")}}, "f="},

		{"hard link", layers{{file("f", "1"), hard("g", "f"), hard("h", "./g")}}, "f=1*3 g=1*3 h=1*3"},
		{"hard link across layers", layers{{file("f", "1")}, {hard("g", "/f")}}, "f=1*2 g=1*2"},
		{"hard link broken", layers{{file("f", "1"), hard("g", "f")}, {file("f", "2")}}, "f=2 g=1"},
		{"hard link through a link", layers{{file("usr/f", "1"), link("l", "usr"), hard("g", "l/f")}}, "g=1*2 l>usr usr/ usr/f=1*2"},
		{"hard link to a link", layers{{link("l", "/nowhere"), hard("g", "l")}}, "g>/nowhere*2 l>/nowhere*2"},
		{"hard link to itself", layers{{file("f", "1"), hard("f", "f")}}, "f=1"},

		{"links", layers{{link("abs", "/x"), link("up", "../../x"), link("dangling", "no/where")}}, "abs>/x dangling>no/where up>../../x"},
		{"through a link", layers{{dir("usr/lib"), link("lib", "usr/lib")}, {file("lib/f", "1")}}, "lib>usr/lib usr/ usr/lib/ usr/lib/f=1"},
		{"through an absolute link", layers{{dir("a"), link("b", "/a")}, {file("b/f", "1")}}, "a/ a/f=1 b>/a"},
		{"through a link upwards", layers{{dir("a/b"), link("a/b/l", "../c")}, {file("a/b/l/f", "1")}}, "a/ a/b/ a/b/l>../c a/c/ a/c/f=1"},
		{"through a link out", layers{{link("l", "../../../etc")}, {file("l/f", "1")}}, "etc/ etc/f=1 l>../../../etc"},
		{"through a dangling link", layers{{link("l", "/no/where")}, {file("l/f", "1")}}, "l>/no/where no/ no/where/ no/where/f=1"},
		{"over a link", layers{{dir("etc"), file("etc/f", "1"), link("l", "/etc/f")}, {file("l", "2")}}, "etc/ etc/f=1 l=2"},

		{"special files", layers{{
			{tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
			{tar.Header{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 300}, ""},
			{tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, ""},
		}}, "disk@259:300 fifo null@1:3"},
		{"long names", layers{{file(strings.Repeat("d", 255)+"/"+strings.Repeat("f", 255), "1")}},
			strings.Repeat("d", 255) + "/ " + strings.Repeat("d", 255) + "/" + strings.Repeat("f", 255) + "=1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, err := flattenLayers(t, tt.layers.tar(t)...)
			must(t, err)
			if got := list(t, root); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func (l layers) tar(t *testing.T) (all [][]byte) {
	for _, entries := range l {
		all = append(all, tarFile(t, entries...))
	}
	return all
}

func TestHostileLayers(t *testing.T) {
	deep := make([]entry, 0, 4)
	for i := range 4 { // each path is short, together they are not
		deep = append(deep, dir(strings.Repeat("d/", 1000)), link(fmt.Sprintf("l%d", i), "/"+strings.Repeat("d/", 1000)))
	}
	tests := []struct {
		name   string
		layers layers
		want   string
	}{
		{"path upwards", layers{{file("../f", "")}}, "leads upwards"},
		{"path upwards inside", layers{{file("a/../../f", "")}}, "leads upwards"},
		{"absolute path upwards", layers{{file("/../etc/passwd", "")}}, "leads upwards"},
		{"hard link upwards", layers{{hard("f", "../../etc/passwd")}}, "leads upwards"},
		{"hard link to the host", layers{{hard("f", "/etc/passwd")}}, "no target"},
		{"hard link through a link to the host", layers{{link("l", "/etc"), hard("f", "l/passwd")}}, "no target"},
		{"hard link to a directory", layers{{dir("d"), hard("f", "d")}}, "is a directory"},
		{"hard link to the root", layers{{hard("f", "/")}}, "root directory"},
		{"hard link to a later file", layers{{hard("g", "f"), file("f", "")}}, "no target"},
		{"link to itself", layers{{link("l", "l"), file("l/f", "")}}, "too many symbolic links"},
		{"links in a circle", layers{{link("a", "b"), link("b", "/a"), file("a/f", "")}}, "too many symbolic links"},
		{"below a file", layers{{file("f", ""), file("f/g", "")}}, "is no directory"},
		{"root as file", layers{{file(".", "")}}, "root is no directory"},
		{"whiteout without a name", layers{{file("a/.wh.", "")}}, "whiteout of nothing"},
		{"whiteout of the directory itself", layers{{file("a/b", ""), file("a/.wh..", "")}}, "whiteout of nothing"},
		{"whiteout of the parent", layers{{file("a/b", ""), file("a/.wh...", "")}}, "whiteout of nothing"},
		{"whiteout as directory", layers{{file(".wh.a/f", "")}}, "no directory"},
		{"long name", layers{{file(strings.Repeat("n", 256), "")}}, "256 bytes"},
		{"long path", layers{{file(strings.Repeat("n/", 2049)+"f", "")}}, "4099 bytes"},
		{"long name in a link", layers{{link("l", strings.Repeat("n", 256)), file("l/f", "")}}, "too long"},
		{"link to nothing", layers{{link("l", "")}}, "symbolic link"},
		{"long link", layers{{link("l", strings.Repeat("n", 4096))}}, "symbolic link"},
		{"unknown type", layers{{{tar.Header{Name: "x", Typeflag: 'Z'}, ""}}}, "unknown type"},
		{"huge device", layers{{{tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 5000}, ""}}}, "device"},
		{"negative owner", layers{{{tar.Header{Name: "x", Typeflag: tar.TypeDir, Uid: -1, Format: tar.FormatGNU}, ""}}}, "owner"},
		{"deep", layers{append(deep, file("l0/"+strings.Repeat("d/", 1500)+"f", ""))}, "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, err := flattenLayers(t, tt.layers.tar(t)...)
			if err == nil {
				t.Fatalf("accepted: %.300s", list(t, root))
			}
			if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want ErrInvalid with %q", err, tt.want)
			}
		})
	}
}

func FuzzLayer(f *testing.F) {
	old := maxSparse
	maxSparse = 64 << 20
	f.Cleanup(func() { maxSparse = old })
	f.Add(tarFile(f, dir("a"), file("a/f", "1"), link("l", "a"), hard("l/h", "a/f"), file("l/.wh..wh..opq", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		root, err := flattenLayers(t, tarFile(t, dir("a"), file("a/f", "1"), link("l", "../a")), data)
		if err != nil {
			if !errors.Is(err, unikernel.ErrInvalid) {
				t.Errorf("error %v is no ErrInvalid", err)
			}
			return
		}
		if len(data) < 1<<16 { // sparse files may be large
			_ = root.Child("a")
		}
	})
}
