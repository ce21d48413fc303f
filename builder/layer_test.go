package builder

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/hostfs/hostfstest"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// layerBench is a snapshot, and a container of it that is made again and again.
type layerBench struct {
	t         *testing.T
	s         *Store
	container func(string) string
	layer     unikernel.Layer
	messages  []string
	n         int
}

func newLayerBench(t *testing.T) *layerBench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("owners and mounts want root")
	}
	b := &layerBench{t: t}
	b.s, b.container = openStore(t, Options{MaxSize: large, Log: func(format string, args ...any) {
		t.Logf(format, args...)
		b.messages = append(b.messages, format)
	}})
	if b.s.mke2 == "" {
		t.Skip("mke2fs is not installed")
	}
	snapshot := filepath.Join(filepath.Dir(b.s.dir), "snapshots", "7")
	b.layer = unikernel.Layer{Upper: filepath.Join(snapshot, "fs"), Home: filepath.Join(snapshot, "uni")}
	if err := os.MkdirAll(b.layer.Upper, 0o755); err != nil {
		t.Fatal(err)
	}
	return b
}

// start makes the next container of the snapshot.
func (b *layerBench) start() (disk string, end func()) {
	b.t.Helper()
	b.n++
	disk = filepath.Join(b.container(strings.Repeat("c", b.n)), "writable.ext4")
	unlock, err := b.s.Layer(b.t.Context(), b.layer, disk, 64<<20)
	if err != nil {
		b.t.Fatal(err)
	}
	return disk, unlock
}

// machine does to a disk what a machine does.
func (b *layerBench) machine(disk string, commands ...string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), filepath.Join(filepath.Dir(b.s.mke2), "debugfs"), "-w", "-f", "-", disk)
	cmd.Stdin = strings.NewReader("cd /upper\n" + strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "rror") {
		b.t.Fatalf("%v: %s", err, out)
	}
}

func (b *layerBench) save() {
	b.t.Helper()
	if err := b.s.Save(b.t.Context(), b.layer); err != nil {
		b.t.Fatal(err)
	}
}

// upper returns the names in the layer's directory.
func (b *layerBench) upper() string {
	b.t.Helper()
	entries, err := os.ReadDir(b.layer.Upper)
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func (b *layerBench) hasUpper(name string) bool {
	return exists(b.t, filepath.Join(b.layer.Upper, name))
}

// has says whether a disk has a file in its upper directory.
func (b *layerBench) has(disk, name string) bool {
	b.t.Helper()
	out, err := exec.CommandContext(b.t.Context(), filepath.Join(filepath.Dir(b.s.mke2), "debugfs"), "-R", "ls -p "+filepath.Join("/upper", filepath.Dir(name)), disk).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	return strings.Contains(string(out), "/"+filepath.Base(name)+"/")
}

func (b *layerBench) want(what string, ok bool) {
	b.t.Helper()
	if !ok {
		b.t.Errorf("not so: %s", what)
	}
}

// TestLayerLivesWithItsSnapshot: from container to container, and with nothing of
// ours when the snapshot is gone.
func TestLayerLivesWithItsSnapshot(t *testing.T) {
	b := newLayerBench(t)
	disk, end := b.start()
	b.want("a fresh disk is not shown to others", b.upper() == "")
	if _, err := b.s.Layer(t.Context(), b.layer, disk+"2", 64<<20); !errors.Is(err, ErrInUse) {
		t.Errorf("a second container of the snapshot: %v", err)
	}
	b.machine(disk, "write /proc/version first", "mkdir d")
	b.save()
	b.want("it is in the snapshot", b.upper() == "d first")
	end()
	remove(t, filepath.Dir(disk))

	disk, end = b.start()
	b.want("the next container has it", b.has(disk, "first"))
	b.machine(disk, "rm first", "mknod gone c 0 0")
	b.save()
	b.want("what was removed is removed", b.upper() == "d gone")
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(b.layer.Upper, "gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout: %+v, %v", st, err)
	}
	end()
	remove(t, filepath.Dir(disk))
	remove(t, filepath.Dir(b.layer.Home))
	if freed, err := b.s.Prune(0); err != nil || freed.Files != 1 {
		t.Errorf("the template is in use: %+v, %v", freed, err)
	}
}

// TestFilesPutIntoALayer count, and are in the next disk, with what was there.
func TestFilesPutIntoALayer(t *testing.T) {
	b := newLayerBench(t)
	put := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(b.layer.Upper, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	disk, end := b.start()
	b.want("it is there at the first start", b.has(disk, "before"))
	b.machine(disk, "write /proc/version written")
	b.save()
	end()
	put("after")
	disk, end = b.start()
	for _, name := range []string{"before", "written", "after"} {
		b.want(name+" is there", b.has(disk, name))
	}
	b.save()
	b.want("nothing else is", b.upper() == "after before written")
	end()
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), b.layer.Home) {
		t.Errorf("still mounted: %v", err)
	}
}

// TestLongPathsInALayer: directories that nest deeper than the kernel takes paths are
// in the snapshot, and in the next disk.
func TestLongPathsInALayer(t *testing.T) {
	b := newLayerBench(t)
	hostfstest.Deep(t, b.layer.Upper, 60)
	for range 2 {
		disk, end := b.start()
		b.machine(disk, "write /proc/version v", "rm v")
		b.save()
		end()
		top, err := hostfs.Look(t.Context(), b.layer.Upper, large)
		if err != nil || top.Files != 62 || top.Bytes != 4 {
			t.Fatalf("%+v, %v", top, err)
		}
		if err := os.WriteFile(filepath.Join(b.layer.Upper, "new"), nil, 0o600); err != nil { // the disk is made anew
			t.Fatal(err)
		}
		remove(t, filepath.Join(b.layer.Upper, "new"))
	}
}

// TestManyFilesInALayer: a small layer has room for many small files, and says how many
// there are where it has not.
func TestManyFilesInALayer(t *testing.T) {
	b := newLayerBench(t)
	put := func(dir string, n int) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(b.layer.Upper, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if err := os.WriteFile(filepath.Join(b.layer.Upper, dir, strconv.Itoa(i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("a", 10_000) // as many as an image of a language's packages has
	disk, end := b.start()
	b.want("the last file is there", b.has(disk, "a/9999"))
	end()
	put("b", 7_000)
	if _, err := b.s.Layer(t.Context(), b.layer, filepath.Join(b.container("x"), "w"), 64<<20); err == nil || !strings.Contains(err.Error(), "17002 files are in it") || !strings.Contains(err.Error(), "rootfs.writable_size") {
		t.Errorf("too many files: %v", err)
	}
}

// TestLayerOfACrash: what a machine wrote and nobody saved is saved by whoever
// cleans up, and else used by the next container.
func TestLayerOfACrash(t *testing.T) {
	b := newLayerBench(t)
	disk, end := b.start()
	b.machine(disk, "write /proc/version written")
	if err := b.s.Recover(t.Context(), filepath.Dir(disk)); err != nil || b.upper() != "" {
		t.Errorf("a layer that somebody has: %v, %q", err, b.upper())
	}
	end() // the shim was killed
	if err := b.s.Recover(t.Context(), filepath.Dir(disk)); err != nil || b.upper() != "written" {
		t.Errorf("recovered: %v, %q", err, b.upper())
	}
	disk, end = b.start()
	b.machine(disk, "write /proc/version more")
	end() // with the host
	if err := os.WriteFile(filepath.Join(b.layer.Upper, "late"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	disk, end = b.start()
	b.want("the machine's files are there", b.has(disk, "more") && b.has(disk, "written"))
	b.want("it is told that others are not", len(b.messages) > 0 && strings.Contains(b.messages[len(b.messages)-1], "are not seen"))
	end()
}

// TestFilesPutAfterAFailedStart count: no machine wrote to the disk. They do not
// where an earlier machine did, and crashed.
func TestFilesPutAfterAFailedStart(t *testing.T) {
	b := newLayerBench(t)
	put := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(b.layer.Upper, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, after := range map[string]func(disk string) error{
		"nothing": func(string) error { return nil }, // its shim undid it, or was killed
		"recover": func(disk string) error { return b.s.Recover(t.Context(), filepath.Dir(disk)) },
		"save":    func(string) error { return b.s.Save(t.Context(), b.layer) },
	} {
		disk, end := b.start()
		put(name + " before")
		if name != "save" {
			end()
		}
		if err := after(disk); err != nil || !b.hasUpper(name+" before") {
			t.Errorf("%s: %v, %q", name, err, b.upper())
		}
		if name == "save" {
			end()
		}
		put(name + " after")
		disk, end = b.start()
		b.want(name+": both are there", b.has(disk, name+" before") && b.has(disk, name+" after"))
		end()
	}
	disk, end := b.start()
	b.machine(disk, "write /proc/version crashed")
	end()
	for _, name := range []string{"late", "later"} { // and starts that fail
		put(name)
		disk, end = b.start()
		b.want("the machine's file is there", b.has(disk, "crashed") && !b.has(disk, name))
		end()
	}
	if err := b.s.Recover(t.Context(), filepath.Dir(disk)); err != nil || !b.hasUpper("crashed") {
		t.Errorf("recovered: %v, %q", err, b.upper())
	}
}

// TestSaveThatFails leaves the directory as it was.
func TestSaveThatFails(t *testing.T) {
	b := newLayerBench(t)
	disk, end := b.start()
	defer end()
	b.machine(disk, "write /proc/version a")
	b.save()
	b.machine(disk, "write /proc/version b", "set_inode_field b block[0] 0")
	if err := b.s.Save(t.Context(), b.layer); err == nil || b.upper() != "a" {
		t.Errorf("a damaged disk: %v, %q", err, b.upper())
	}
	if left, err := os.ReadDir(b.layer.Home); err != nil || len(left) != 4 { // layer, lock, state, and the directory of the first time
		t.Errorf("left in its home: %v, %v", left, err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}); err != nil {
		t.Fatal(err)
	}
	if err := b.s.Save(t.Context(), b.layer); !errors.Is(err, ErrInUse) {
		t.Errorf("while a machine has the disk: %v", err)
	}
}

// TestReplacedFilesGoLater: Save leaves what it replaces to Settle, also to the next
// one.
func TestReplacedFilesGoLater(t *testing.T) {
	b := newLayerBench(t)
	disk, end := b.start()
	defer end()
	there := func(name string) bool { return exists(b.t, filepath.Join(b.layer.Home, name)) }
	for _, name := range []string{"a", "b", "c"} { // without Settle: their shims were killed
		b.machine(disk, "write /proc/version "+name)
		b.save()
		b.want("it waits to be removed", there(layerOld) && !there(layerNext) && !exists(b.t, filepath.Join(b.layer.Home, layerOld, name)))
	}
	if err := b.s.Settle(b.layer); err != nil {
		t.Fatal(err)
	}
	b.want("nothing waits any more", !there(layerOld) && b.upper() == "a b c")
}

// TestStateOfALayer: whom to believe where directory and disk differ.
func TestStateOfALayer(t *testing.T) {
	b := newLayerBench(t)
	_, end := b.start()
	defer end()
	b.save()
	known, err := readState(b.layer)
	if err != nil || !directoryCounts(b.layer, known) {
		t.Errorf("just saved: %+v, %v", known, err)
	}
	known.Boot = "another"
	b.want("a directory that may be lost is not believed", !directoryCounts(b.layer, known))
	if err := b.s.Settle(b.layer); err != nil {
		t.Fatal(err)
	}
	b.want("one that reached the disk is", directoryCounts(b.layer, known))
	known.Unsaved = true
	b.want("unless a machine wrote since", !directoryCounts(b.layer, known))
}

func TestSweep(t *testing.T) {
	b := newLayerBench(t)
	bundle := t.TempDir()
	disk, end := b.start()
	dir := filepath.Dir(disk)
	release, err := b.s.Claim(dir, bundle)
	if err != nil {
		t.Fatal(err)
	}
	b.machine(disk, "write /proc/version written")
	if err := os.WriteFile(filepath.Join(dir, "root"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	abandoned := func(want int) []Abandoned {
		t.Helper()
		all, err := b.s.Abandoned()
		if err != nil || len(all) != want {
			t.Errorf("abandoned: %+v, %v, want %d", all, err, want)
		}
		return all
	}
	remove(t, bundle)
	abandoned(0) // the shim lives
	if _, err := b.s.Claim(dir, bundle); !errors.Is(err, ErrInUse) {
		t.Errorf("a second claim: %v", err)
	}
	end()
	release()
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	abandoned(0) // its client will come back
	remove(t, bundle)
	machine := exec.Command("sh", "-c", "read x", disk) // as QEMU has it among its arguments
	if _, err := machine.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	abandoned(0)
	_ = machine.Process.Kill()
	_ = machine.Wait()
	if all := abandoned(1); len(all) == 1 && (all[0].Bytes < 1<<20 || all[0].Bytes > 2<<20) {
		t.Errorf("%+v: the layer's disk is not freed with it", all[0])
	}
	young := b.container("young")
	old := b.container("old")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := b.s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want("what the machine wrote is saved", b.upper() == "written")
	for path, want := range map[string]bool{dir: false, old: false, young: true, filepath.Join(b.layer.Home, layerDisk): true} {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) == want {
			t.Errorf("%s: %v", path, err)
		}
	}
}
