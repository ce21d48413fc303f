package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// volumeBench is a Store with a boot disk for which nothing changed of late.
type volumeBench struct {
	*testing.T
	s        *Store
	base     string
	messages []string
	n        int // of containers
}

func newVolumeBench(t *testing.T) *volumeBench {
	b := &volumeBench{T: t}
	b.s, b.base, _ = bootStore(t)
	b.s.now = func() time.Time { return time.Now().Add(time.Hour) }
	b.s.opts.Log = func(format string, args ...any) { b.messages = append(b.messages, fmt.Sprintf(format, args...)) }
	return b
}

// configure makes the layer of a new container, in a directory of its own.
func (b *volumeBench) configure(volumes ...unikernel.Volume) ([]unikernel.Disk, error) {
	b.Helper()
	b.n++
	dir := filepath.Join(filepath.Dir(filepath.Dir(b.base)), fmt.Sprint("v", b.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	base := filepath.Join(dir, "boot.tfs")
	if err := os.Link(b.base, base); err != nil {
		b.Fatal(err)
	}
	disks, err := b.s.Configure(b.Context(), rawDisk(base), filepath.Join(dir, "boot.qcow2"), 64<<20,
		unikernel.BootConfig{Args: []string{"/bin/x"}, Cwd: "/", Volumes: volumes})
	left, _ := filepath.Glob(filepath.Join(dir, "volume-*"))
	if err != nil && len(left) > 0 {
		b.Errorf("after an error %v is left", left)
	}
	return disks, err
}

func (b *volumeBench) must(volumes ...unikernel.Volume) []unikernel.Disk {
	b.Helper()
	disks, err := b.configure(volumes...)
	if err != nil {
		b.Fatal(err)
	}
	return disks
}

// shared lists the cached volumes' numbers of users.
func (b *volumeBench) shared() (users []int) {
	b.Helper()
	entries, err := b.s.Entries()
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		if e.Kind == "volume" {
			users = append(users, e.Users)
		}
	}
	slices.Sort(users)
	return users
}

// honest leaves out a test where files' times say nothing.
func honest(t *testing.T, dir string) {
	t.Helper()
	known, err := hostfs.Look(t.Context(), dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if known.Key(time.Now().Add(time.Hour)) == "" {
		t.Skip("the file system of ", dir, " is none whose disks are shared")
	}
}

// disk reads a disk's files by the independent reader.
func readDisk(t *testing.T, path string) *tfs.FS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := tfs.ReadVolume(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// sameTree compares a directory of the host with one of a disk.
func sameTree(t *testing.T, dir string, f tfs.File) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Type()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
			names = append(names, e.Name())
		}
	}
	if got := f.Names(); !slices.Equal(got, names) {
		t.Errorf("%s has %v, the disk %v", dir, names, got)
		return
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		kid, ok := f.Child(e.Name())
		switch {
		case !ok:
		case e.IsDir():
			sameTree(t, path, kid)
		case e.Type()&os.ModeSymlink != 0:
			want, _ := os.Readlink(path)
			if got, ok := kid.Target(); !ok || got != want {
				t.Errorf("%s links to %q on the disk", path, got)
			}
		default:
			sameFile(t, path, kid)
		}
	}
}

func sameFile(t *testing.T, path string, f tfs.File) {
	t.Helper()
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Reader()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes, on the disk %d others; %v", path, len(want), len(got), err)
	}
}

func bindSource(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a/b/c": "deep", "dev/null": "a file", "proc/x": "y", "empty": "", "bin/x": elfProgram} {
		writeFile(t, filepath.Join(dir, name), []byte(text))
	}
	writeFile(t, filepath.Join(dir, "large"), bytes.Repeat([]byte("0123456789"), 300_000))
	err := errors.Join(os.Symlink("a/b", filepath.Join(dir, "link")), os.Symlink("/x", filepath.Join(dir, "dangling")),
		os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "hard")), unix.Mkfifo(filepath.Join(dir, "a/pipe"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func readOnly(path, source string) unikernel.Volume {
	return unikernel.Volume{Path: path, Source: source, Recursive: true, ReadOnly: true, MaxSource: 1 << 30}
}

func TestVolumeOfDirectory(t *testing.T) {
	b := newVolumeBench(t)
	dir := bindSource(t)
	disks := b.must(readOnly("/a", dir))
	if len(disks) != 1 || !disks[0].ReadOnly || disks[0].Ephemeral || disks[0].Format != "raw" || disks[0].Serial != "volume-0" {
		t.Fatalf("%+v", disks)
	}
	fs := readDisk(t, disks[0].Path)
	sameTree(t, dir, fs.Top())
	if len(b.messages) != 1 || !strings.Contains(b.messages[0], dir) || !strings.Contains(b.messages[0], "a/pipe") {
		t.Errorf("messages %q", b.messages)
	}
	if st, err := os.Stat(disks[0].Path); err != nil || st.Mode().Perm()&0o222 != 0 {
		t.Errorf("a read-only disk: %v, %v", st.Mode(), err)
	}
}

func TestVolumeOfFile(t *testing.T) {
	b := newVolumeBench(t)
	file := filepath.Join(bindSource(t), "large")
	disks := b.must(readOnly("/models/m", file))
	f, ok := readDisk(t, disks[0].Path).Top().Child("m")
	if !ok {
		t.Fatal("the file is not there by the name it has in the container")
	}
	sameFile(t, file, f)
}

func TestVolumesAreShared(t *testing.T) {
	b := newVolumeBench(t)
	dir := bindSource(t)
	honest(t, dir)
	one, two := b.must(readOnly("/a", dir)), b.must(readOnly("/elsewhere", dir))
	if got := b.shared(); !slices.Equal(got, []int{2}) {
		t.Errorf("two containers with one source: users %v", got)
	}
	if l, m := readDisk(t, one[0].Path).Label, readDisk(t, two[0].Path).Label; l != m {
		t.Errorf("labels %q and %q", l, m)
	}
	writeFile(t, filepath.Join(dir, "a/b/c"), []byte("DEEP")) // of the same size
	three := b.must(readOnly("/a", dir))
	if got := b.shared(); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("after a change: users %v", got)
	}
	sameTree(t, dir, readDisk(t, three[0].Path).Top())
}

// TestVolumeTwice: one source in two places of a container has two labels, by
// which the kernel tells the disks apart.
func TestVolumeTwice(t *testing.T) {
	b := newVolumeBench(t)
	dir := bindSource(t)
	disks := b.must(readOnly("/a", dir), readOnly("/b", dir))
	if l, m := readDisk(t, disks[0].Path).Label, readDisk(t, disks[1].Path).Label; l == m || l == "" || m == "" {
		t.Errorf("labels %q and %q", l, m)
	}
}

// TestVolumeOfFreshSource: what changed a moment ago may change again without
// a trace, so it is not shared.
func TestVolumeOfFreshSource(t *testing.T) {
	b := newVolumeBench(t)
	b.s.now = time.Now
	dir := bindSource(t)
	disks := b.must(readOnly("/a", dir))
	sameTree(t, dir, readDisk(t, disks[0].Path).Top())
	if got := b.shared(); got != nil {
		t.Errorf("users %v", got)
	}
}

// TestVolumeOfChangingSource: a source that changes while it is read for the
// cache does not get there.
func TestVolumeOfChangingSource(t *testing.T) {
	b := newVolumeBench(t)
	dir := bindSource(t)
	honest(t, dir)
	times := 0
	b.s.now = func() time.Time {
		if times++; times == 1 { // the key is known, nothing has been read
			writeFile(t, filepath.Join(dir, "new"), []byte("text"))
		}
		return time.Now().Add(time.Hour)
	}
	disks := b.must(readOnly("/a", dir))
	sameTree(t, dir, readDisk(t, disks[0].Path).Top())
	if got := b.shared(); got != nil {
		t.Errorf("users %v", got)
	}
}

func TestWritableVolumes(t *testing.T) {
	b := newVolumeBench(t)
	dir := bindSource(t)
	copied := readOnly("/a", dir)
	copied.ReadOnly = false
	disks := b.must(copied, unikernel.Volume{Path: "/b", Size: 3 << 20}, unikernel.Volume{Path: "/etc", Spare: true})
	if len(disks) != 3 {
		t.Fatalf("%+v", disks)
	}
	for i, least := range []int64{67 << 20, 3 << 20, 64 << 20} {
		st, err := os.Stat(disks[i].Path)
		if err != nil || disks[i].ReadOnly || !disks[i].Ephemeral {
			t.Errorf("%+v, %v", disks[i], err)
		} else if used := st.Sys().(*syscall.Stat_t); used.Size < least || used.Blocks*512 > 8<<20 {
			t.Errorf("volume %d has %d bytes, of which %d are on the disk", i, used.Size, used.Blocks*512)
		}
	}
	sameTree(t, dir, readDisk(t, disks[0].Path).Top())
	if names := readDisk(t, disks[2].Path).Top().Names(); len(names) > 0 {
		t.Errorf("a tmpfs holds %v", names)
	}
	if !slices.ContainsFunc(b.messages, func(m string) bool { return strings.Contains(m, dir) && strings.Contains(m, "discarded") }) {
		t.Errorf("messages %q", b.messages)
	}
	if got := b.shared(); got != nil {
		t.Errorf("writable volumes are shared: users %v", got)
	}
}

func TestVolumeTooLarge(t *testing.T) {
	b := newVolumeBench(t)
	v := readOnly("/a", bindSource(t))
	v.MaxSource = 2 << 20
	_, err := b.configure(v)
	if !errors.Is(err, unikernel.ErrInvalid) {
		t.Fatal(err)
	}
	for _, word := range []string{v.Source, "/a", "has 3 MiB", "at most 2 MiB", "nanos.volume_max_size", `guest "linux"`} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%v; does not say %q", err, word)
		}
	}
}

// TestProgramOnVolume: what is mounted is looked into for the program, and what
// it hides is not found any more.
func TestProgramOnVolume(t *testing.T) {
	s, base, layer := bootStore(t)
	dir := bindSource(t)
	file := filepath.Join(dir, "bin/x")
	for name, tt := range map[string]struct {
		program string
		volume  unikernel.Volume
		copies  string
		want    error
	}{
		"on a volume":    {"/app/bin/x", readOnly("/app", dir), "", nil},
		"by $PATH":       {"x", readOnly("/usr/bin", filepath.Dir(file)), "", nil},
		"volume of it":   {"/app/run", readOnly("/app/run", file), "", nil},
		"copy":           {"/app/run", unikernel.Volume{}, file, nil},
		"no program":     {"/app/a/b/c", readOnly("/app", dir), "", unikernel.ErrInvalid},
		"hidden":         {"/bin/x", readOnly("/bin", filepath.Join(dir, "a")), "", unikernel.ErrNotFound},
		"hidden by none": {"/bin/x", unikernel.Volume{Path: "/bin"}, "", unikernel.ErrNotFound},
	} {
		c := unikernel.BootConfig{Args: []string{tt.program}, Cwd: "/", Env: []string{"PATH=/usr/bin"}}
		if tt.volume.Path != "" {
			c.Volumes = []unikernel.Volume{tt.volume}
		}
		if tt.copies != "" {
			c.Files = []unikernel.BootFile{{Path: "/app/run", Source: tt.copies}}
		}
		if _, err := s.Configure(t.Context(), rawDisk(base), layer, 1<<20, c); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		_ = os.Remove(layer)
	}
}

// TestVolumesAgain: the layer of a machine that has not run is made again.
func TestVolumesAgain(t *testing.T) {
	s, base, layer := bootStore(t)
	dir := bindSource(t)
	for range 2 {
		disks, err := s.Configure(t.Context(), rawDisk(base), layer, 1<<20,
			unikernel.BootConfig{Args: []string{"/bin/x"}, Cwd: "/", Volumes: []unikernel.Volume{readOnly("/a", dir)}})
		if err != nil {
			t.Fatal(err)
		}
		sameTree(t, dir, readDisk(t, disks[0].Path).Top())
		writeFile(t, filepath.Join(dir, "new"), nil)
		if err := os.Remove(layer); err != nil {
			t.Fatal(err)
		}
	}
}
