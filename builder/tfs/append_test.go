package tfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// overlay is a disk with chunks over it.
type overlay struct {
	base   []byte
	chunks []Chunk
}

func (o overlay) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(o.base)) {
		copy(b, o.base[at:])
	}
	for _, c := range o.chunks {
		if skip := at - c.Offset; skip > 0 {
			c.Offset, c.Data = at, c.Data[min(skip, int64(len(c.Data))):]
		}
		if p := c.Offset - at; p < int64(len(b)) {
			copy(b[p:], c.Data)
		}
	}
	return len(b), nil
}

// appended writes a tree, appends to it, and reads the result, to which the
// disk has grown by what lies behind it.
func appended(t *testing.T, dir string, c Config) (*FS, error) {
	t.Helper()
	f := writeDisk(t, dir)
	m := open(t, f)
	chunks, err := m.Append(c)
	if err != nil {
		return nil, err
	}
	base, err := os.ReadFile(f.Name())
	must(t, err)
	for _, c := range chunks {
		if c.Offset%configAlign != 0 || !empty(base, c) {
			t.Errorf("chunk at %d: the disk is not empty there", c.Offset)
		}
	}
	fs, err := Read(overlay{base, chunks}, rootPartition, int64(len(base))-rootPartition+(64<<20))
	must(t, err)
	fs.dec.symbol("") // makes the table
	if len(fs.dec.names)+tuples(fs) != fs.dec.dictionary.len() {
		t.Errorf("%d symbols and %d tuples and vectors have %d indices", len(fs.dec.names), tuples(fs), fs.dec.dictionary.len())
	}
	return fs, nil
}

// empty says whether what is replaced has no more than an empty extension.
func empty(base []byte, c Chunk) bool {
	if c.Offset >= int64(len(base)) {
		return true
	}
	old := base[c.Offset:]
	head := append(newExtension(nil, extensionSize), frameEnd)
	return bytes.HasPrefix(old, head) && len(bytes.Trim(old[len(head):], "\x00")) == 0
}

func tuples(fs *FS) (n int) {
	for _, v := range fs.dec.dictionary.all() {
		if v.kind != typeBuffer {
			n++
		}
	}
	return n
}

func TestAppend(t *testing.T) {
	fs, err := appended(t, makeTree(t, false), Config{
		Settings: Settings{
			{"program", "/bin/x"}, {"arguments", Vector{"x", "", "a b\"'$"}},
			{"environment", Settings{{"PATH", "/bin"}, {"children", "x"}, {"EMPTY", ""}}},
			{"en1", Settings{{"ipaddr", "10.0.0.2"}, {"mtu", uint64(1500)}}},
		},
		Directories: []string{"/mnt/new", "/etc", "/etc/up/made", "/mnt"},
		Files: []NewFile{
			{Path: "/etc/hosts", Data: []byte("127.0.0.1 h\n")}, {Path: "/etc/new/deep/er", Data: bytes.Repeat([]byte("x"), 1000)},
			{Path: "/etc/new/deep/too"}, {Path: "/etc/new/b", Data: []byte("b")}, {Path: "dangling", Data: []byte("followed")},
			{Path: "/etc/up/g", Data: []byte("g")}, {Path: "/mnt/new/link", Target: "/etc/hosts"}, {Path: "/mnt/b", Data: []byte("c")},
		},
	})
	must(t, err)
	arguments := fs.Root.Get("arguments").(*List)
	if fs.Root.Get("program") != "/bin/x" || !reflect.DeepEqual(arguments.Items(), []any{"x", "", "a b\"'$"}) {
		t.Errorf("program %v, arguments %v", fs.Root.Get("program"), arguments.Items())
	}
	env, en1 := fs.Root.child("environment"), fs.Root.child("en1")
	if env.Get("PATH") != "/bin" || env.Get("children") != "x" || env.Get("EMPTY") != "" {
		t.Errorf("environment %v", env)
	}
	if en1.Get("ipaddr") != "10.0.0.2" || en1.Get("mtu") != uint64(1500) {
		t.Errorf("en1 %v", en1)
	}
	for path, want := range map[string]string{
		"/etc/hosts": "127.0.0.1 h\n", "/abs": "127.0.0.1 h\n", "/etc/new/deep/er": strings.Repeat("x", 1000),
		"/etc/new/deep/too": "", "/etc/new/b": "b", "/nowhere": "followed", "/a/g": "g", "/mnt/new/link": "127.0.0.1 h\n", "/mnt/b": "c", "/sector": strings.Repeat("sector", 86)[:512],
	} {
		f, err := fs.Lookup(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := read(t, f); string(got) != want {
			t.Errorf("%s holds %q", path, got)
		}
	}
}

func TestAppendDirectories(t *testing.T) {
	fs, err := appended(t, makeTree(t, false), Config{Directories: []string{"/mnt/new", "/etc", "/mnt"}})
	must(t, err)
	for _, path := range []string{"/mnt/new", "/etc", "/mnt"} {
		if f, err := fs.Lookup(path); err != nil || !f.IsDir() {
			t.Errorf("%s: %v", path, err)
		}
	}
	if f, err := fs.Lookup("/etc/hosts"); err != nil || !f.IsRegular() {
		t.Errorf("what was in a directory: %v", err)
	}
}

func TestAppendNothing(t *testing.T) {
	dir := makeTree(t, false)
	fs, err := appended(t, dir, Config{})
	must(t, err)
	compare(t, fs.Top(), dir, "")
}

func TestAppendRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for name, tt := range map[string]struct {
		c    Config
		want error
	}{
		"too large":    {Config{Settings: Settings{{"x", strings.Repeat("x", extensionSize)}}}, unix.E2BIG},
		"wrong value":  {Config{Settings: Settings{{"x", 1}}}, ErrFormat},
		"loop":         {Config{Files: []NewFile{{Path: "/loop/x"}}}, unix.ELOOP},
		"below a file": {Config{Files: []NewFile{{Path: "/file/x"}}}, unix.ENOTDIR},
		"directory":    {Config{Files: []NewFile{{Path: "/"}}}, unix.EISDIR},
		"over a file":  {Config{Directories: []string{"/file"}}, unix.ENOTDIR},
		"in a file":    {Config{Directories: []string{"/file/x"}}, unix.ENOTDIR},
	} {
		if _, err := appended(t, dir, tt.c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	m := open(t, writeDisk(t, dir))
	_, err := m.Append(Config{})
	must(t, err)
	if _, err := m.Append(Config{}); !errors.Is(err, ErrFormat) {
		t.Errorf("second Append: %v", err)
	}
}
