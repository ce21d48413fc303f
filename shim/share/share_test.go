package share

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestPlan(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	shares, err := Plan([]specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/a", Type: "bind", Source: dir},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/b", Type: "none", Source: file, Options: []string{"rbind", "ro"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(shares) != 2 || shares[0].Name != "0" || shares[0].Mount.Destination != "/a" || shares[1].Name != "0/file" || shares[1].Mount.Destination != "/b" {
		t.Errorf("shares %+v", shares)
	}
	if a, b := shares[0], shares[1]; !a.Dir || a.Size != 0 || b.Dir || b.Size != 5 {
		t.Errorf("sources %+v", shares)
	}
}

// TestPlaces: what can be reached by another source is a path in that, where the
// host then allows the same; single files lie with those of their file system.
func TestPlaces(t *testing.T) {
	top := t.TempDir()
	other := "/dev/shm" // another file system
	file, err := os.CreateTemp(other, "uni-share-")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() { os.Remove(file.Name()) })
	for _, dir := range []string{"a/b/c", "ab"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(top, "a/f"), nil, 0o600), os.Symlink("a/b", filepath.Join(top, "link"))); err != nil {
		t.Fatal(err)
	}
	type m struct{ source, options string }
	for name, tt := range map[string]struct {
		mounts []m
		want   string
	}{
		"apart":                        {[]m{{"a", "rbind"}, {"ab", "rbind"}}, "0 1"},
		"in another":                   {[]m{{"a", "rbind"}, {"a/b", "rbind"}}, "0 0/b"},
		"in a later one":               {[]m{{"a/b/c", "rbind"}, {"a", "rbind"}}, "1/b/c 1"},
		"in one that is in another":    {[]m{{"a/b/c", "rbind"}, {"a/b", "rbind"}, {"a", "rbind"}}, "2/b/c 2/b 2"},
		"by a link":                    {[]m{{"a", "rbind"}, {"link", "rbind"}}, "0 0/b"},
		"the same":                     {[]m{{"a", "rbind"}, {"a", "rbind"}, {"a", "rbind"}}, "0 0 0"},
		"the same, one to be written":  {[]m{{"a", "rbind,ro"}, {"a", "rbind,rw"}, {"a/b", "rbind,ro"}}, "1 1 1/b"},
		"read-only in writable":        {[]m{{"a", "rbind"}, {"a/b", "rbind,ro"}}, "0 0/b"},
		"writable in read-only":        {[]m{{"a", "rbind,ro"}, {"a/b", "rbind"}}, "0 1"},
		"one without what is mounted":  {[]m{{"a", "rbind"}, {"a/b", "bind"}}, "0 1"},
		"one with what comes later":    {[]m{{"a", "rbind"}, {"a/b", "rbind,rslave"}}, "0 1"},
		"all below it read-only":       {[]m{{"a", "rbind"}, {"a/b", "rbind,rro"}}, "0 1"},
		"a file in a directory":        {[]m{{"a/f", "rbind,ro"}, {"a", "rbind"}}, "1/f 1"},
		"files of two file systems":    {[]m{{"a/f", "rbind"}, {file.Name(), "rbind"}, {"a/f", "rbind"}}, "file0/0 file1/1 file0/2"},
		"a directory of another mount": {[]m{{"/dev", "rbind"}, {other, "rbind"}}, ""},
	} {
		var mounts []specs.Mount
		for _, m := range tt.mounts {
			if !filepath.IsAbs(m.source) {
				m.source = filepath.Join(top, m.source)
			}
			mounts = append(mounts, specs.Mount{Destination: "/x", Type: "bind", Source: m.source, Options: strings.Split(m.options, ",")})
		}
		shares, err := Plan(mounts)
		if (err != nil) != (tt.want == "") {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, s := range shares {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestNormalize(t *testing.T) {
	got, err := Normalize([]specs.Mount{
		{Destination: "foo", Type: "bind", Source: "/x"},
		{Destination: "/a/../b/", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm"},
		{Destination: "/dev/shm", Type: "bind", Source: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"/foo", "/b", "/dev/shm", "/dev/shm"} {
		if got[i].Destination != want {
			t.Errorf("destination %q, want %q", got[i].Destination, want)
		}
	}
	for _, m := range got[2:] {
		if m.Type != "bind" {
			t.Errorf("what is not made for the container became %+v", m)
		}
	}
	for _, destination := range []string{"/", ".", "a/.."} {
		if _, err := Normalize([]specs.Mount{{Destination: destination, Type: "bind", Source: "/x"}}); !errors.Is(err, unikernel.ErrNotImplemented) {
			t.Errorf("destination %q: %v", destination, err)
		}
	}
	if _, err := Normalize([]specs.Mount{{Source: "/x"}}); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("no destination: %v", err)
	}
}

// needRoot skips a test that mounts.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("mounts: set UNI_QEMU_TESTS=1")
	}
}

// mountTmpfs mounts one until the test ends.
func mountTmpfs(t *testing.T, dir, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("tmpfs", dir, "tmpfs", 0, data)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestOwnMemory: a tmpfs that a client made for /dev/shm becomes the machine's.
func TestOwnMemory(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "shm")
	mountTmpfs(t, dir, "size=64m,mode=1777")
	if err := os.Mkdir(filepath.Join(dir, "part"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := OwnMemory([]specs.Mount{
		{Destination: "/dev/shm", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}},
		{Destination: "/dev/shm", Type: "bind", Source: filepath.Join(dir, "part"), Options: []string{"rbind"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if m, want := got[0], "mode=1777 uid=0 gid=0 size=67108864 nosuid nodev noexec ro"; m.Type != "tmpfs" || strings.Join(m.Options, " ") != want {
		t.Errorf("%+v, want a tmpfs with %s", m, want)
	}
	if got[1].Type != "bind" {
		t.Errorf("a part of one became %+v", got[1])
	}
}

// newTree makes a share that is gone when the test ends.
func newTree(t *testing.T, dir string) *Tree {
	t.Helper()
	var tree *Tree
	t.Cleanup(func() {
		if tree != nil {
			if err := tree.inside(func() error { return notMounted(staging(dir)) }); err != nil {
				t.Error(err)
			}
			if err := tree.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(notMounted(dir), Unmount(dir)); err != nil { // by which others see that it is nowhere
			t.Error(err)
		}
		for _, path := range []string{dir, staging(dir)} {
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", path, err)
			}
		}
	})
	var err error
	if tree, err = New(dir); err != nil {
		t.Fatal(err)
	}
	return tree
}

// notMounted is an error if something is, but for the directory itself, which is
// mounted in a tree's namespace.
func notMounted(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir + "/"))
	if len(mounts) > 0 {
		err = fmt.Errorf("mounted: %s", mounts[0].Mountpoint)
	}
	return err
}

func add(t *testing.T, tree *Tree, shares []unikernel.SharedMount) *Group {
	t.Helper()
	g, err := tree.Add(shares)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestLateMounts: what is added while somebody has a mount namespace of its own, as
// virtiofsd has, is there and gone for that one as for us, and never writable if
// it is to be read-only.
func TestLateMounts(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	source, dir := filepath.Join(top, "source"), filepath.Join(top, "share")
	mountTmpfs(t, source, "")
	mountTmpfs(t, filepath.Join(source, "below"), "")
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := newTree(t, dir)
	other := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo; exec sleep 1000")
	out, err := other.StdoutPipe()
	if err = errors.Join(err, tree.inside(other.Start)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil { // the namespace is there
		t.Fatal(err)
	}
	var mounts []specs.Mount
	for _, options := range []string{"rbind", "rbind,rro", "rbind,ro"} {
		mounts = append(mounts, specs.Mount{Destination: "/" + options, Type: "bind", Source: source, Options: strings.Split(options, ",")})
	}
	mounts = append(mounts, specs.Mount{Destination: "/file", Type: "bind", Source: filepath.Join(source, "file"), Options: []string{"bind", "rro"}})
	var groups []*Group
	for i, options := range mounts[1:] { // each alone, else it would be reached by another
		shares, err := Plan([]specs.Mount{options})
		if err != nil {
			t.Fatal(err)
		}
		g := add(t, tree, shares)
		groups = append(groups, g)
		if want := strconv.Itoa(i+1) + "/"; !strings.HasPrefix(g.Shares[0].Name, want) {
			t.Errorf("name %q, want one in %s", g.Shares[0].Name, want)
		}
	}
	writable, err := Plan(mounts[:1])
	if err != nil {
		t.Fatal(err)
	}
	groups = append(groups, add(t, tree, writable))
	seen := func(g *Group) string {
		return filepath.Join("/proc", strconv.Itoa(other.Process.Pid), "root", dir, g.Shares[0].Name)
	}
	for i, tt := range []struct{ path, below error }{{unix.EROFS, unix.EROFS}, {unix.EROFS, nil}, {unix.EROFS, nil}, {nil, nil}} {
		at, below := filepath.Join(seen(groups[i]), "new"), filepath.Join(seen(groups[i]), "below/new")
		if i == 2 { // the file
			at, below = seen(groups[i]), ""
		}
		if err := os.WriteFile(at, []byte("y"), 0o600); !errors.Is(err, tt.path) {
			t.Errorf("%s: written: %v, want %v", at, err, tt.path)
		}
		if below == "" {
			continue
		}
		if err := os.WriteFile(below, nil, 0o600); !errors.Is(err, tt.below) {
			t.Errorf("%s: written: %v, want %v", below, err, tt.below)
		}
	}
	held, err := os.Open(seen(groups[3])) // as virtiofsd does of what a guest knows
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, g := range groups[1:] {
		if err := errors.Join(g.Remove(), g.Remove()); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(seen(g)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(seen(groups[0]), "file")); err != nil {
		t.Errorf("the others' removal took it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(source, "below/new")); err != nil {
		t.Errorf("the source: %v", err)
	}
}

// TestHugePages: they are refused by name.
func TestHugePages(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "hugetlbfs", 0, ""); errors.Is(err, unix.ENODEV) {
		t.Skip("the kernel has no huge pages")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	_, err := Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: dir}})
	if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), "huge pages") {
		t.Error(err)
	}
}

// TestMounts: what is mounted below a source, now and later, can be written and
// is seen as the options say.
func TestMounts(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	source, dir := filepath.Join(top, "source"), filepath.Join(top, "share")
	mountTmpfs(t, source, "")
	if err := unix.Mount("", source, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, filepath.Join(source, "below"), "")
	if err := errors.Join(os.MkdirAll(filepath.Join(source, "part"), 0o700), os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var mounts []specs.Mount
	for _, options := range []string{"rbind", "rbind,ro", "rbind,rro", "bind", "rbind,rslave"} {
		mounts = append(mounts, specs.Mount{Destination: "/" + options, Type: "bind", Source: source, Options: strings.Split(options, ",")})
	}
	mounts = append(mounts, specs.Mount{Destination: "/file", Type: "bind", Source: "/etc/hostname", Options: []string{"bind", "ro"}})
	shares, err := Plan(mounts)
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree(t, dir)
	shares = add(t, tree, shares).Shares
	mountTmpfs(t, filepath.Join(source, "later"), "")
	if err := os.Mkdir(filepath.Join(source, "later/new"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = tree.inside(func() error {
		for name, want := range map[string]struct {
			top, below, later bool // what can be written, and what is seen
		}{
			"/rbind": {true, true, false}, "/rbind,rro": {false, false, false},
			"/bind": {true, true, false}, "/rbind,rslave": {true, true, true},
		} {
			i := slices.IndexFunc(shares, func(s unikernel.SharedMount) bool { return s.Mount.Destination == name })
			at := filepath.Join(dir, shares[i].Name)
			try := func(path string) bool {
				path = filepath.Join(at, path)
				err := os.WriteFile(path, nil, 0o600)
				if err != nil && !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: %v", name, err)
				}
				os.Remove(path)
				return err == nil
			}
			if got := try("x"); got != want.top {
				t.Errorf("%s: can be written %t", name, got)
			}
			if got := try("below/x"); got != want.below {
				t.Errorf("%s: what is mounted below can be written %t", name, got)
			}
			if _, err := os.Stat(filepath.Join(at, "later/new")); (err == nil) != want.later {
				t.Errorf("%s: what is mounted later: %v", name, err)
			}
		}
		if data, err := os.ReadFile(filepath.Join(dir, shares[5].Name)); err != nil || len(data) == 0 {
			t.Errorf("the file holds %q, %v", data, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostIsFree: what is shared is in nobody's way on the host: sources, and what is
// mounted in them, can be unmounted and removed, and file systems are given back,
// also where mounts do not propagate.
func TestHostIsFree(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	source, other := filepath.Join(top, "source"), filepath.Join(top, "other")
	below := filepath.Join(source, "below")
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, below, "")
	mountTmpfs(t, other, "")
	dir := filepath.Join(top, "state", "share")
	if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	tree := newTree(t, dir)
	shares, err := Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: source}})
	if err != nil {
		t.Fatal(err)
	}
	g := add(t, tree, shares)
	if err := notMounted(filepath.Dir(dir)); err != nil {
		t.Errorf("seen by the host: %v", err)
	}
	if err := tree.inside(func() error { return notMounted(other) }); err != nil {
		t.Error(err)
	}
	info, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(other))
	if err != nil || len(info) != 1 {
		t.Fatal(info, err)
	}
	err = tree.inside(func() error {
		all, err := mountinfo.GetMounts(nil)
		for _, m := range all {
			if m.Major == info[0].Major && m.Minor == info[0].Minor {
				t.Errorf("a file system that is not shared is in use at %s", m.Mountpoint)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(below, 0); err != nil {
		t.Errorf("unmount what is mounted in a source: %v", err)
	}
	if err := os.RemoveAll(source); err != nil {
		t.Errorf("remove a source: %v", err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}

func TestPlanRefuses(t *testing.T) {
	dir := t.TempDir()
	socket, fifo, link := filepath.Join(dir, "socket"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink("/dev/null", link)); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		socket: "a socket", fifo: "a fifo", "/dev/null": "a device", link: "a device",
		"/proc": "host's /proc", "/sys": "host's /sys", "/proc/sys": "host's /proc", "/dev": "host's /dev",
	} {
		_, err := Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: source}})
		if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
	}
	for _, dir := range []string{"/dev/shm", "/dev/mqueue"} { // --ipc=host
		_, err := Plan([]specs.Mount{{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind"}}})
		if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), "IPC namespace") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, option := range []string{"shared", "rshared"} {
		_, err := Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: dir, Options: []string{"rbind", option}}})
		if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), "rslave") {
			t.Errorf("%s: %v", option, err)
		}
	}
	_, err = Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: filepath.Join(dir, "nonexistent")}})
	if !errors.Is(err, unikernel.ErrInvalid) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
}

func TestUnshareable(t *testing.T) {
	for path, ok := range map[string]bool{
		"/devices": true, "/system": true, "/proc2/x": true, "/dev/shm/a": true, "/dev/shm": false, "/dev/pts/0": false,
	} {
		if got := unshareable(path, 0) == ""; got != ok {
			t.Errorf("%s: shareable %v", path, got)
		}
	}
}

func TestSockets(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.sock", "a.sock"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := Sockets(unikernel.SharedMount{Mount: specs.Mount{Source: dir}, Dir: true})
	if !slices.Equal(got, []string{"a.sock", "b.sock"}) {
		t.Errorf("sockets %v", got)
	}
	if got := Sockets(unikernel.SharedMount{Mount: specs.Mount{Source: filepath.Join(dir, "file")}}); got != nil {
		t.Errorf("sockets in a file: %v", got)
	}
}

// TestUnmountRemovesMountPointsOnly: what is not an empty mount point is not ours.
func TestUnmountRemovesMountPointsOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "share")
	if err := Unmount(dir); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "0"), 0o700), os.WriteFile(filepath.Join(dir, "1"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(dir); err != nil {
		t.Errorf("mount points: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
	data := filepath.Join(dir, "0", "data")
	if err := errors.Join(os.MkdirAll(filepath.Dir(data), 0o700), os.WriteFile(data, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(dir); err == nil {
		t.Error("a directory with data was taken for a mount point")
	}
	if _, err := os.Stat(data); err != nil {
		t.Errorf("data is gone: %v", err)
	}
}
