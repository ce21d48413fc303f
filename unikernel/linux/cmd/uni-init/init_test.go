package main

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// tree makes a directory with a "root" that has links in and out of it, and
// opens root.
func tree(t *testing.T) (root int, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, d := range []string{"root/data", "root/links", "outside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"links/abs": "/data", "links/out": "../../../../outside", "links/real": dir + "/outside",
		"links/loop": "loop", "links/dangling": "/made", "links/chain": "abs", "file-link": "data/file",
	} {
		if err := os.Symlink(target, filepath.Join(dir, "root", name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(root) })
	return root, dir
}

func TestWalk(t *testing.T) {
	for _, c := range []struct {
		path string
		w    want
		at   string // below root
		err  error
	}{
		{"/", wantExisting, "", nil},
		{"", wantExisting, "", nil},
		{"/data", wantExisting, "data", nil},
		{"//data/./../data/", wantExisting, "data", nil},
		{"/../../data", wantExisting, "data", nil},
		{"/links/abs", wantExisting, "data", nil},
		{"/links/chain/new", wantDir, "data/new", nil},
		{"/links/out", wantDir, "outside", nil}, // made inside, not the one outside
		{"/links/dangling/a", wantDir, "made/a", nil},
		{"/a/b/c", wantFile, "a/b/c", nil},
		{"/file-link", wantFile, "data/file", nil},
		{"/nosuch", wantExisting, "", unix.ENOENT},
		{"/links/loop", wantDir, "", unix.ELOOP},
		{"/a/b/c/d", wantDir, "", unix.ENOTDIR},
	} {
		root, dir := tree(t)
		if c.err == unix.ENOTDIR {
			os.MkdirAll(dir+"/root/a/b", 0o755)
			os.WriteFile(dir+"/root/a/b/c", nil, 0o644)
		}
		fd, err := walk(root, c.path, c.w)
		if err != c.err {
			t.Errorf("%q: error %v, want %v", c.path, err, c.err)
			continue
		}
		if err != nil {
			continue
		}
		got, err := os.Readlink(fdPath(fd))
		unix.Close(fd)
		if want := filepath.Join(dir, "root", c.at); err != nil || got != want {
			t.Errorf("%q leads to %q, %v; want %q", c.path, got, err, want)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "outside")); len(left) != 0 {
			t.Errorf("%q made %v outside", c.path, left)
		}
	}
}

// TestWalkLeaksNothing: descriptors of the way are closed.
func TestWalkLeaksNothing(t *testing.T) {
	root, _ := tree(t)
	count := func() int {
		l, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	before := count()
	for _, path := range []string{"/a/b/c", "/links/abs/../data/x", "/nosuch/../..", "/links/loop"} {
		if fd, err := walk(root, path, wantDir); err == nil {
			unix.Close(fd)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestMountOptions keeps what clients are told equal to what is done.
func TestMountOptions(t *testing.T) {
	known := slices.Concat(slices.Collect(maps.Keys(flagOptions)), slices.Collect(maps.Keys(propagationOptions)), slices.Collect(maps.Keys(recursiveOptions)))
	known = slices.DeleteFunc(known, func(o string) bool { return strings.HasSuffix(o, "shared") })
	slices.Sort(known)
	if !slices.Equal(known, wire.MountOptions) {
		t.Errorf("PID 1 knows\n%q, clients are told of\n%q", known, wire.MountOptions)
	}
}

func TestParseOptions(t *testing.T) {
	o := parseOptions([]string{"rbind", "ro", "nosuid", "suid", "noexec", "rprivate", "rro", "mode=755", "size=1m", "idmap", "rw"})
	want := mountOptions{flags: unix.MS_BIND | unix.MS_REC | unix.MS_NOEXEC, recursive: unix.MOUNT_ATTR_RDONLY,
		propagation: []uintptr{unix.MS_PRIVATE | unix.MS_REC}, data: []string{"mode=755", "size=1m"}}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got %+v, want %+v", o, want)
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"prog": 0o755, "plain": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for _, c := range []struct {
		file, path, want, err string
		code                  wire.Code
	}{
		{"prog", "/nosuch:" + dir, dir + "/prog", "", 0},
		{dir + "/prog", "", dir + "/prog", "", 0},
		{"./prog", "", "./prog", "", 0},
		{"nosuch", dir, "", `exec: "nosuch": executable file not found in $PATH`, wire.CodeNotFound},
		{"plain", dir, "", `exec: "plain": executable file not found in $PATH`, wire.CodeNotFound},
		{dir + "/plain", "", "", `exec: "` + dir + `/plain": permission denied`, wire.CodeInvalid},
		{"/no/such", "", "", `exec: "/no/such": stat /no/such: no such file or directory`, wire.CodeNotFound},
		{dir, "", "", `exec: "` + dir + `": is a directory`, wire.CodeInvalid},
		{"prog", "", "", `exec: "prog": cannot run executable found relative to current directory`, wire.CodeInvalid},
	} {
		got, err := lookPath(c.file, c.path)
		r := replyOf(err)
		if got != c.want || r.Text != c.err || r.Code != c.code {
			t.Errorf("%q in %q: %q, %+v; want %q, %d %q", c.file, c.path, got, r, c.want, c.code, c.err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "HOME=/h", "B", "A=2=3"}, 0)
	if want := []string{"A=2=3", "HOME=/h", "B"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, env := range [][]string{{"HOME="}, nil} {
		got := environment(env, 3_000_000_000)
		if len(got) != 1 || !strings.HasPrefix(got[0], "HOME=/") {
			t.Errorf("%q: got %q", env, got)
		}
	}
}

func TestHomeOf(t *testing.T) {
	passwd := "bad line\nroot:x:0:0:root:/root:/bin/sh\nempty:x:2:2:::\nuser:x:1000:1000:,,,:/home/u:/bin/sh"
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/u", 2: "/", 77: "/"} {
		if got := homeOf(passwd, uid); got != want {
			t.Errorf("uid %d: %q, want %q", uid, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	said := append([]byte{sayTTY, sayReady, sayError}, wire.Reply{Code: wire.CodeInvalid, Text: "no"}.Encode()...)
	for _, c := range []struct {
		answer string
		want   string
	}{
		{"R", ""}, {"TR", ""},
		{string(said), "no"},
		{"", "the process died while it was set up"},
		{"T", "the process died while it was set up"},
		{"x", wire.ErrFrame.Error()}, {"E", wire.ErrFrame.Error()},
	} {
		if got := replyOf(judge([]byte(c.answer), nil)).Text; got != c.want {
			t.Errorf("%q: %q, want %q", c.answer, got, c.want)
		}
	}
}

func TestNumbersAndQuotes(t *testing.T) {
	for _, c := range [][2]string{
		{formatUint(0), "0"}, {formatUint(1<<64 - 1), "18446744073709551615"}, {formatInt(-1000), "-1000"},
		{formatOctal(0o1777), "1777"}, {formatOctal(0o755), "0755"},
		{quote("a\"b\\c\n"), `"a\"b\\c\x0a"`}, {quote("ä"), `"ä"`},
	} {
		if c[0] != c[1] {
			t.Errorf("got %s, want %s", c[0], c[1])
		}
	}
	if _, ok := parseUint("12345678901"); ok {
		t.Error("a number that overflows is accepted")
	}
}

// TestMakeDevices needs no privilege for links and named pipes.
func TestMakeDevices(t *testing.T) {
	root, dir := tree(t)
	pipe := wire.Device{Path: "/dev/deep/pipe", Type: 'p', Mode: 0o620, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	for range 2 { // what is there already stays
		if err := makeDevice(root, &pipe); err != nil {
			t.Fatal(err)
		}
		if err := makeLink(root, "/proc/self/fd", "/dev/fd"); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(dir + "/root/dev/deep/pipe")
	if err != nil || st.Mode() != os.ModeNamedPipe|0o620 {
		t.Errorf("pipe: %v, %v", st, err)
	}
	if err := makeDevice(root, &wire.Device{Path: "/dev/x", Type: 'z'}); err == nil {
		t.Error("a device of type z is accepted")
	}
	if err := makeDevice(root, &wire.Device{Path: "/dev/..", Type: 'p'}); err == nil {
		t.Error("a device with no name is accepted")
	}
}

func TestCounter(t *testing.T) {
	for text, want := range map[string]uint64{
		"nr_free_pages 12\noom_kill 7\noom_kill_x 9\n": 7, "oom_kill 0": 0, "oom_kills 3\n": 0, "": 0, "oom_kill x\n": 0,
	} {
		if got := counter([]byte(text), "oom_kill"); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// TestMemoryLimit: containers may have what is available beside what they have, but for
// uni-init's share.
func TestMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	stat := []byte("anon 2097152\nfile 99999999\nkernel 4194304\nshmem 1048576\nslab_reclaimable 3145728\nslab_unreclaimable 1\n")
	for available, want := range map[string]uint64{"20480": 20*mib + 4*mib - 3*mib, "1024": 3 * mib, "0": 3 * mib, "999999999": 999999999<<10 + mib} {
		meminfo := []byte("MemTotal:       2000 kB\nMemFree:  9 kB\nMemAvailable:   " + available + " kB\n")
		if got := memoryLimit(meminfo, stat); got != want {
			t.Errorf("%s KiB available: %d bytes, want %d", available, got, want)
		}
	}
}

// TestDiskName finds disks of both kinds by their serials.
func TestDiskName(t *testing.T) {
	sys := t.TempDir()
	for path, text := range map[string]string{
		"vda/serial": "root\n", "vdb/serial": "",
		"sda/device/vpd_pg80": "\x00\x80\x00\x07c1-root", "sdb/device/vpd_pg80": "\x00\x80\x00\x0a c1-upper more",
		"sdc/device/vpd_pg80": "\x00\x80", "sdd/device/model": "c2-root", "loop0/size": "0",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(sys, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for serial, want := range map[string]string{
		"root": "vda", "c1-root": "sda", "c1-upper": "sdb", "c2-root": "", "upper": "", "c1": "", "": "",
	} {
		if got := diskName(sys, serial); got != want {
			t.Errorf("%q: %q, want %q", serial, got, want)
		}
	}
}

func TestInCgroup(t *testing.T) {
	for line, want := range map[string]bool{
		"0::/container-1": true, "0::/container-1/sub/deep": true,
		"0::/container-12": false, "0::/": false, "0::/other/container-1": false, "1:name=x:/container-1": false, "": false,
	} {
		if got := inCgroup(line, "/container-1"); got != want {
			t.Errorf("%q: %t", line, got)
		}
	}
}

func TestLimitFiles(t *testing.T) {
	none, some := uint64(0), uint64(4096)
	for _, c := range []struct {
		l    wire.Limits
		want map[string]string
	}{
		{wire.Limits{}, map[string]string{}},
		{wire.Limits{Memory: &some, Pids: &none}, map[string]string{"memory.max": "4096", "pids.max": "max"}},
		{wire.Limits{CPU: &wire.CPU{Quota: 50000, Period: 100000, Weight: 7}}, map[string]string{"cpu.max": "50000 100000", "cpu.weight": "7"}},
		{wire.Limits{CPU: &wire.CPU{Period: 100000}}, map[string]string{"cpu.max": "max 100000"}},
		{wire.Limits{CPU: &wire.CPU{}}, map[string]string{"cpu.max": "max"}},
	} {
		if got := limitFiles(c.l); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.l, got, c.want)
		}
	}
}

// TestContainersOnce: a machine is set up before its containers are made, and each
// of them once; what is asked of one that is not there is answered.
func TestContainersOnce(t *testing.T) {
	s := newServer(nil)
	if _, err := s.addContainer(wire.Container{ID: 1}); err == nil {
		t.Error("a container before the machine is set up")
	}
	s.ready = true
	if _, err := s.addContainer(wire.Container{ID: 1, Root: "r", Upper: "u"}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []wire.Container{{ID: 2, Root: "u"}, {ID: 2, Root: "x", Upper: "r"}} {
		if _, err := s.addContainer(w); err == nil || !strings.Contains(err.Error(), "another container's") {
			t.Errorf("%+v on disks of another: %v", w, err)
		}
	}
	if _, err := s.addContainer(wire.Container{ID: 3, Root: "memory"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.addContainer(wire.Container{ID: 4, Root: "memory, too"}); err != nil {
		t.Errorf("two containers without a layer: %v", err)
	}
	if _, err := s.addContainer(wire.Container{ID: 1}); err == nil {
		t.Error("two containers with one id")
	}
	for id := uint32(1); id < 9; id += 7 { // one that does not run, one that is not there
		beside := &container{s: s, Container: wire.Container{ID: 2, PIDs: wire.PIDNamespace{Kind: wire.PIDContainer, Container: id}}}
		if _, err := beside.openPIDs(); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("the PID namespace of container %d: %v", id, err)
		}
	}
	for _, first := range []bool{true, false} {
		if _, err := s.claim(&wire.Start{Container: 1, ID: 1}, first); err != errStopped {
			t.Errorf("a process in a container that is not ready: %v", err)
		}
	}
	if _, err := s.claim(&wire.Start{Container: 9, ID: 1}, true); err != errNoContainer {
		t.Errorf("a process in no container: %v", err)
	}
	s.containers[1].ready = true
	if _, err := s.claim(&wire.Start{Container: 1, ID: 2}, false); err != errStopped {
		t.Errorf("a further process before the first: %v", err)
	}
	if c, err := s.claim(&wire.Start{Container: 1, ID: 2}, true); err != nil || c.main != 2 {
		t.Errorf("the first process: %v", err)
	}
	if _, err := s.claim(&wire.Start{Container: 1, ID: 3}, true); err == nil {
		t.Error("a second first process")
	}
	if err := s.remove(7); err != errNoContainer {
		t.Errorf("remove of no container: %v", err)
	}
}

func TestDeviceRules(t *testing.T) {
	got := strings.Join(deviceRules([]wire.Device{{Path: "/dev/fuse", Type: 'c', Major: 10, Minor: 229}, {Path: "/p", Type: 'p'},
		{Path: "/u", Type: 'u', Major: 1, Minor: 11}, {Path: "/b", Type: 'b', Major: 7}}), "|")
	want := "c *:* m|b *:* m|c 5:1 rwm|c 5:2 rwm|c 136:* rwm|c 1:3 rwm|c 1:5 rwm|c 1:7 rwm|c 1:8 rwm|c 1:9 rwm|c 5:0 rwm|c 10:229 rwm|c 1:11 rwm|b 7:0 rwm"
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// TestParseDevices: the numbers of drivers differ from machine to machine, and a name
// has several.
func TestParseDevices(t *testing.T) {
	got := parseDevices("Character devices:\n  1 mem\n  4 ttyS\n  4 sd\n  5 /dev/tty\n247 virtio-portsdev\n\nBlock devices:\n  7 loop\n  8 sd\n 65 sd\n254 virtblk\n259 blkext\n")
	want := map[byte][]uint32{'c': {4, 4, 247}, 'b': {8, 65, 254}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCgroupOf(t *testing.T) {
	for text, want := range map[string]string{
		"1:devices:/1/app\n0::/containers/1/app/init.scope\n": "/containers/1/app/init.scope", "0::/\n": "/", "1:devices:/\n": "", "": "",
	} {
		if got := cgroupOf(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestLess(t *testing.T) {
	if !less("9", "10") || !less("65530", "1048576") || less("10", "9") || less("7", "7") || !less("", "1") {
		t.Error("numbers are compared as text")
	}
}
