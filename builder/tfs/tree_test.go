package tfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/builder/tree/treetest"
)

// plain takes from a tree what the format does not have.
func plain(t *testing.T, root *tree.Node) *tree.Node {
	t.Helper()
	for i, e := range root.Entries {
		if kernelDirs[e.Name] {
			root.Entries[i].Node = &tree.Node{Mode: unix.S_IFDIR}
		}
	}
	must(t, root.Walk(func(_ string, n *tree.Node) error {
		n.Mode, n.UID, n.GID = n.Type()|0o777, 0, 0
		kept := n.Entries[:0]
		for _, e := range n.Entries {
			if e.Node.IsDir() || e.Node.IsFile() || e.Node.IsLink() {
				kept = append(kept, e)
			}
		}
		n.Entries = kept
		return nil
	}))
	root.Mtime, root.MtimeNsec = 0, 0 // nor a time of the root
	return root
}

func TestTree(t *testing.T) {
	dir := makeTree(t, false)
	must(t, unix.Lsetxattr(filepath.Join(dir, "a/f"), "user.a", []byte("\x00b"), 0))
	want, err := tree.Scan(t.Context(), dir)
	must(t, err)
	got, err := open(t, writeDisk(t, dir)).Root.Tree(t.Context())
	must(t, err)
	for _, line := range treetest.Diff(plain(t, want), got) {
		t.Error(line)
	}
	sparse := got.Child("sparse")
	c, err := sparse.Data.Open()
	must(t, err)
	start, end, err := c.(tree.Sparse).NextData(2<<20, sparse.Size)
	if err != nil || start != 40<<20 || end <= start || end > 41<<20 {
		t.Errorf("data from %d to %d, %v", start, end, err)
	}
	start, _, err = c.(tree.Sparse).NextData(41<<20, sparse.Size)
	if err != nil || start != sparse.Size {
		t.Errorf("data at %d, %v", start, err)
	}
}

// ofRecords reads a file system whose log holds these records.
func ofRecords(t *testing.T, records ...func(*encoder)) (*FS, error) {
	t.Helper()
	f := create(t)
	log := newLogWriter(f, 0, firstData)
	e := newEncoder()
	for _, record := range records {
		e.b = e.b[:0]
		record(e)
		must(t, log.record(e.b))
	}
	must(t, log.close())
	must(t, writeHead(f, 0, firstData, head{}))
	must(t, f.Truncate(firstData*sectorSize+extensionSize))
	return Read(f, 0, firstData*sectorSize+extensionSize)
}

func rootOf(entries Settings) func(*encoder) {
	return func(e *encoder) {
		e.tuple(1)
		e.settings(Settings{{attrChildren, entries}})
	}
}

func TestTreeRefuses(t *testing.T) {
	// The indices: 1 the root, 2 "children", 3 its entries, 4 "d", 5 a directory.
	directory := Settings{{"d", Settings{{attrChildren, Settings(nil)}}}}
	for name, tt := range map[string]struct {
		entries Settings
		more    func(*encoder)
		want    string
	}{
		"two names": {directory, func(e *encoder) { e.again(3, 1); e.symbol("e"); e.again(5, 0) }, "two names"},
		"a loop":    {directory, func(e *encoder) { e.again(3, 1); e.symbol("e"); e.again(1, 0) }, "two names"},
		"a name":    {Settings{{"a/b", Settings{}}}, func(e *encoder) { e.again(3, 0) }, "not a file name"},
		"nothing":   {Settings{{"s", Settings{}}}, func(e *encoder) { e.again(3, 0) }, ""},
	} {
		fs, err := ofRecords(t, rootOf(tt.entries), tt.more)
		must(t, err)
		_, err = fs.Tree(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a guest writes later changes what was there: attributes of tuples that
// are in the log already.
func TestLaterRecords(t *testing.T) {
	file := Settings{{"f", Settings{{attrLength, uint64(3)}, {attrExtents, Settings(nil)}}}}
	fs, err := ofRecords(t, rootOf(file),
		func(e *encoder) { e.again(5, 1); e.symbol(attrLength); e.integer(700) },                 // longer
		func(e *encoder) { e.again(3, 1); e.symbol("g"); e.again(5, 0) },                         // linked
		func(e *encoder) { e.again(3, 1); e.symbol("f"); e.b = append(e.b, 0x80|typeBuffer<<4) }, // unlinked
		func(e *encoder) { e.again(1, 1); e.symbol("v"); e.vector(Vector{"a"}) },                 // index 10 is v, 11 its list
		func(e *encoder) { e.again(1, 1); e.symbol("v"); e.b = append(e.b, typeVector<<4|1, 11); e.string("b") },
	)
	must(t, err)
	root, err := fs.Tree(t.Context())
	must(t, err)
	if len(root.Entries) != 1 || root.Entries[0].Name != "g" || root.Entries[0].Node.Size != 700 {
		t.Errorf("entries %+v", root.Entries)
	}
	list, ok := fs.Root.Get("v").(*List)
	if !ok || len(list.Items()) != 1 || list.Items()[0] != "b" {
		t.Errorf("v is %v", fs.Root.Get("v"))
	}
}

func TestDiskSettingsAndRoom(t *testing.T) {
	d := testDisk
	d.Settings = Process("/bin/x", []string{"x", ""}, []string{"A=b=c", "odd"}, "/w")
	d.Free = 1 << 20
	f := create(t)
	must(t, d.WriteDir(t.Context(), f, t.TempDir()))
	m := open(t, f)
	st, err := os.Stat(f.Name())
	must(t, err)
	if got := st.Size() - RootOffset - m.Root.size; got != d.Free {
		t.Errorf("%d bytes are free", got)
	}
	env, root := m.Root.Root.child("environment"), m.Root.Root
	if root.Get("program") != "/bin/x" || root.Get("cwd") != "/w" || env.Get("A") != "b=c" || env.Get("odd") != nil {
		t.Errorf("program %v, cwd %v, environment %v", root.Get("program"), root.Get("cwd"), env)
	}
	chunks, err := m.Append(Config{Settings: Process("/bin/y", nil, nil, "/")})
	must(t, err)
	base, err := os.ReadFile(f.Name())
	must(t, err)
	fs, err := Read(overlay{base, chunks}, RootOffset, m.Root.size)
	must(t, err)
	if fs.Root.Get("program") != "/bin/y" || fs.Root.child("environment").Get("A") != nil {
		t.Error("the disk's settings are not replaced")
	}
}

func TestSymbolsOfOneHash(t *testing.T) {
	fs, err := ofRecords(t, rootOf(Settings{{"a", Settings{}}, {"b", Settings{}}}))
	must(t, err)
	a, b := fs.dec.symbol("a"), fs.dec.symbol("b")
	for h, i := range fs.dec.names { // every hash means another name now
		fs.dec.names[h] = i%uint32(b) + 1
		if k, _ := fs.dec.kind(uint64(fs.dec.names[h])); k != typeBuffer {
			fs.dec.names[h] = uint32(a)
		}
	}
	if fs.dec.symbol("a") != a || fs.dec.symbol("b") != b || fs.dec.symbol("c") != 0 {
		t.Errorf("a is %d, b %d, c %d; want %d, %d, 0", fs.dec.symbol("a"), fs.dec.symbol("b"), fs.dec.symbol("c"), a, b)
	}
}

func TestManyItems(t *testing.T) {
	defer func(old int) { maxItems = old }(maxItems)
	maxItems = 200
	for name, tt := range map[string]struct {
		n   int
		err error
	}{"few": {40, nil}, "many": {200, ErrFormat}} {
		for _, twice := range []bool{false, true} {
			_, err := ofRecords(t, rootOf(nil), func(e *encoder) {
				e.again(1, tt.n)
				for range tt.n {
					e.symbol("a")
					if twice {
						e.again(1, 1)
						e.symbol("b")
						e.integer(0)
					} else {
						e.tuple(0)
					}
				}
			})
			if !errors.Is(err, tt.err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A log of many directories in each other is read in a time that grows with its
// length alone.
func TestDeepLog(t *testing.T) {
	deep := Settings(nil)
	for range 400 {
		deep = Settings{{"d", Settings{{attrChildren, deep}}}}
	}
	fs, err := ofRecords(t, rootOf(deep))
	must(t, err)
	root, err := fs.Tree(t.Context())
	must(t, err)
	depth := 0
	for n := root; n != nil; n = n.Child("d") {
		depth++
	}
	if depth != 401 {
		t.Errorf("%d directories", depth)
	}
	again := func(n int) error {
		_, err := ofRecords(t, rootOf(nil), func(e *encoder) {
			for range n {
				e.again(1, 1)
				e.symbol("a")
			}
			e.integer(1)
		})
		return err
	}
	if err := again(maxAgain); err != nil {
		t.Error(err)
	}
	if err := again(maxAgain + 2); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}
