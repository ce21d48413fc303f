package builder

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"
)

// rootWith returns a root file system with files, and links where a text begins
// with "->"; a path that ends with a slash is a directory.
func rootWith(t *testing.T, files map[string]string) *tfs.FS {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, isLink := strings.CutPrefix(text, "->"); isLink {
			err = errors.Join(err, os.Symlink(target, path))
		} else if strings.HasSuffix(name, "/") {
			err = errors.Join(err, os.MkdirAll(path, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	disk := tfs.Disk{Boot: append(make([]byte, 510), 0x55, 0xaa), Kernel: []byte("\x7fELF")}
	if err := disk.WriteDir(t.Context(), f, dir); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	image, err := tfs.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return image.Root
}

func TestPlanMounts(t *testing.T) {
	root := rootWith(t, map[string]string{
		"var/run": "->/run", "run/": "", "full/x/y": "z", "empty/": "", "etc/passwd": "p", "dangling": "->nowhere/here",
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, []byte("x"))
	vol := func(path string) unikernel.Volume {
		return unikernel.Volume{Path: path, Source: dir, ReadOnly: true}
	}
	ram := func(path string, spare bool) unikernel.Volume { return unikernel.Volume{Path: path, Spare: spare} }
	no, invalid := unikernel.ErrNotImplemented, unikernel.ErrInvalid
	for name, tt := range map[string]struct {
		volumes []unikernel.Volume
		files   []string
		at      []string // where volumes are mounted
		dirs    []string
		err     error
		words   string
	}{
		"there":            {volumes: []unikernel.Volume{vol("/empty")}, at: []string{"/empty"}, dirs: []string{"/empty"}},
		"over files":       {volumes: []unikernel.Volume{vol("/full/x")}, at: []string{"/full/x"}, dirs: []string{"/full/x"}},
		"missing":          {volumes: []unikernel.Volume{vol("/no/such/place")}, at: []string{"/no/such/place"}, dirs: []string{"/no/such/place"}},
		"by a link":        {volumes: []unikernel.Volume{vol("/var/run/secrets/x")}, at: []string{"/run/secrets/x"}, dirs: []string{"/run/secrets/x"}},
		"dangling link":    {volumes: []unikernel.Volume{vol("/dangling/a")}, at: []string{"/nowhere/here/a"}, dirs: []string{"/nowhere/here/a"}},
		"file":             {volumes: []unikernel.Volume{{Path: "/etc/passwd", Source: file}}, at: []string{"/.uni/0"}, dirs: []string{"/.uni/0"}},
		"tmpfs, missing":   {volumes: []unikernel.Volume{ram("/t", true)}, dirs: []string{"/t"}},
		"tmpfs, empty":     {volumes: []unikernel.Volume{ram("/empty", true)}, dirs: []string{"/empty"}},
		"tmpfs, full":      {volumes: []unikernel.Volume{ram("/full", true)}, at: []string{"/full"}, dirs: []string{"/full"}},
		"tmpfs, read-only": {volumes: []unikernel.Volume{ram("/empty", false)}, at: []string{"/empty"}, dirs: []string{"/empty"}},
		"in a tmpfs that needs no disk": {volumes: []unikernel.Volume{ram("/t", true), vol("/t/v")}, files: []string{"/t/f"},
			at: []string{"/t/v"}, dirs: []string{"/t", "/t/v"}},
		"beside":             {volumes: []unikernel.Volume{vol("/a"), vol("/ab")}, at: []string{"/a", "/ab"}, dirs: []string{"/a", "/ab"}},
		"in another":         {volumes: []unikernel.Volume{vol("/a"), vol("/a/b")}, err: no, words: "/a/b lies in /a"},
		"in another by link": {volumes: []unikernel.Volume{vol("/run"), vol("/var/run/b")}, err: no, words: "/run/b lies in /run"},
		"around another":     {volumes: []unikernel.Volume{vol("/a/b"), vol("/a")}, err: no, words: "/a/b lies in /a"},
		"twice":              {volumes: []unikernel.Volume{vol("/a"), vol("/a/../a")}, err: invalid, words: "another mount"},
		"copy in a volume":   {volumes: []unikernel.Volume{vol("/etc")}, files: []string{"/etc/hosts"}, err: no, words: "/etc/hosts lies in /etc"},
		"below a file":       {volumes: []unikernel.Volume{vol("/etc/passwd/x")}, err: invalid},
		"over a file":        {volumes: []unikernel.Volume{vol("/etc/passwd")}, err: invalid, words: "needs a directory"},
		"file over a dir":    {volumes: []unikernel.Volume{{Path: "/etc", Source: file}}, err: invalid, words: "has a directory there"},
		"option in the path": {volumes: []unikernel.Volume{vol("/a:root")}, err: no, words: `":ro"`},
		"no UTF-8":           {volumes: []unikernel.Volume{vol("/a\xff")}, err: no, words: "UTF-8"},
		"no source":          {volumes: []unikernel.Volume{{Path: "/a", Source: file + "x"}}, err: invalid},
	} {
		c := unikernel.BootConfig{Volumes: tt.volumes}
		for _, f := range tt.files {
			c.Files = append(c.Files, unikernel.BootFile{Path: f, Source: file})
		}
		add, err := planMounts(newView(root), c)
		if tt.err != nil {
			if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%s: %v, want %v that says %q", name, err, tt.err, tt.words)
			}
			continue
		}
		var at []string
		for _, m := range add.mounts {
			at = append(at, m.at)
		}
		if err != nil || !slices.Equal(at, tt.at) || !slices.Equal(add.directories, tt.dirs) {
			t.Errorf("%s: mounted %v, made %v, %v", name, at, add.directories, err)
		}
	}
}

func TestView(t *testing.T) {
	root := rootWith(t, map[string]string{"d/f": "f", "d/up": "->../d/./f", "loop": "->loop", "abs": "->/d/f"})
	v := newView(root)
	v.links["/big"] = "/.uni/0/big"
	v.copies["/d/new"] = "/host"
	v.volumes["/.uni/0"] = &volume{}
	for path, want := range map[string]place{
		"/d/up": {path: "/d/f"}, "abs": {path: "/d/f"}, "/d/../../d": {path: "/d"}, "/": {path: "/"},
		"/x/y/../z": {path: "/x/z", missing: true}, "/d/new": {path: "/d/new", source: "/host"},
		"/big": {path: "/.uni/0/big", volume: "/.uni/0", missing: true},
	} {
		got, err := v.find(path)
		got.file = tfs.File{}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
	for _, path := range []string{"/loop", "/d/f/x", "/d/new/x"} {
		if p, err := v.find(path); err == nil {
			t.Errorf("%s: %+v", path, p)
		}
	}
}
