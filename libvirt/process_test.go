package libvirt

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/qemufiles"
	"containerd-shim-uni/unikernel"
)

// TestMain also is the process that stands in for QEMU in the tests: with
// UNI_TEST_STANDIN it only waits, whatever its arguments are.
func TestMain(m *testing.M) {
	if os.Getenv("UNI_TEST_STANDIN") != "" {
		time.Sleep(time.Minute) // not for ever, should the test be killed
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn starts a process with these arguments, argv[0] included.
func standIn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: args, Env: []string{"UNI_TEST_STANDIN=1"}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _, _ = cmd.Process.Wait() })
	for len(arguments(cmd.Process.Pid)) != len(args) { // until the exec is done
		time.Sleep(time.Millisecond)
	}
	return cmd
}

// qemuArgs is the start of the command line that libvirt 9.0 gives QEMU.
func qemuArgs(name, lib string) []string {
	return []string{"/usr/bin/qemu-system-x86_64", "-name", "guest=" + name + ",debug-threads=on", "-S", "-object",
		`{"qom-type":"secret","id":"masterKey0","format":"raw","file":"` + lib + `/domain-1-` + name + `/master-key.aes"}`}
}

func TestIsMachine(t *testing.T) {
	const lib = "/run/uni/k/lv/lib/qemu"
	tests := []struct {
		what string
		args []string
		want bool
	}{
		{"ours", qemuArgs("uni-a--b", lib), true},
		{"longer name", qemuArgs("uni-a--bc", lib), false},
		{"shorter name", qemuArgs("uni-a--", lib), false},
		{"another root", qemuArgs("uni-a--b", "/run/uni/other/lv/lib/qemu"), false},
		{"root that ends like ours", qemuArgs("uni-a--b", "/srv"+lib), false},
		{"another program", append([]string{"/usr/bin/vim"}, qemuArgs("uni-a--b", lib)[1:]...), false},
		{"name last", []string{"qemu-system-x86_64", "-name"}, false},
		{"zombie", nil, false},
	}
	for _, tt := range tests {
		if got := isMachine(tt.args, "uni-a--b", lib); got != tt.want {
			t.Errorf("%s: %v", tt.what, got)
		}
	}
}

func TestReadPid(t *testing.T) {
	for text, want := range map[string]int{"": 0, "1": 0, "-5": 0, "0": 0, "12\n": 12, "12 13": 0, "x": 0, "99999999999999999999": 0} {
		file := filepath.Join(t.TempDir(), "pid")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readPid(file); got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
	if got := readPid(filepath.Join(t.TempDir(), "absent")); got != 0 {
		t.Errorf("no file: %d", got)
	}
}

func TestProcessWait(t *testing.T) {
	cmd := standIn(t, "stand-in")
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	status, err := p.wait()
	if err != nil || status != (exitCode{"killed by SIGKILL", -1}) {
		t.Errorf("got %+v, %v", status, err)
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Errorf("a signal to an ended process: %v", err)
	}
	if len(arguments(p.pid)) != 0 {
		t.Error("the process is not reaped")
	}
}

func TestProcessWaitIsBounded(t *testing.T) {
	cmd := standIn(t, "stand-in")
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := p.waitContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

// The pid file is believed only when the process says so itself; without the
// file the process is found all the same.
func TestFindQEMU(t *testing.T) {
	dir := t.TempDir()
	target := target{state: dir, lib: filepath.Join(dir, "lib")}
	stranger := standIn(t, qemuArgs("uni-a--other", target.lib)...)
	file := filepath.Join(dir, "uni-a--b.pid")
	if err := os.WriteFile(file, []byte(itoa(stranger.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := findQEMU(target, "uni-a--b"); p != nil {
		t.Fatalf("found %d, which is another machine's", p.pid)
	}
	ours := standIn(t, qemuArgs("uni-a--b", target.lib)...)
	for range 2 { // by its arguments, then by the file
		p := findQEMU(target, "uni-a--b")
		if p == nil || p.pid != ours.Process.Pid {
			t.Fatalf("found %v, want %d", p, ours.Process.Pid)
		}
		p.close()
		if err := os.WriteFile(file, []byte(itoa(ours.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A machine's helpers are found by its name and the root of its libvirt.
func TestFindHelpers(t *testing.T) {
	here, there := target{root: "/here"}, target{root: "/there"}
	standIn(t, helperName(here, "uni-a--b"), "--fd=3")
	standIn(t, helperName(here, "uni-a--b"), "--fd=3") // the child that it shuts itself away in
	standIn(t, helperName(there, "uni-a--b"), "--fd=3")
	standIn(t, helperName(here, "uni-a--c"), "--fd=3")
	standIn(t, "/usr/lib/qemu/virtiofsd", "--fd=3")
	for name, want := range map[string]int{"uni-a--b": 2, "uni-a--c": 1, "uni-a": 0} {
		found := findHelpers(here, name)
		for _, p := range found {
			p.close()
		}
		if len(found) != want {
			t.Errorf("machine %s has %d helpers, want %d", name, len(found), want)
		}
	}
}

func TestVirtiofsdArgs(t *testing.T) {
	for _, tt := range []struct {
		features []string
		share    unikernel.Share
		want     []string
	}{
		{nil, unikernel.Share{Source: "/run/a,b"}, []string{"--fd=3", "-o", `source=/run/a\,b`, "-o", "cache=auto,xattr,posix_acl"}},
		{nil, unikernel.Share{Source: "/run/a", Submounts: true}, []string{"--fd=3", "-o", "source=/run/a", "-o", "cache=auto,xattr,posix_acl,announce_submounts"}},
		{[]string{qemufiles.SeparateOptions}, unikernel.Share{Source: "/run/a,b"},
			[]string{"--fd=3", "--shared-dir=/run/a,b", "--cache=auto", "--xattr", "--posix-acl", "--no-announce-submounts"}},
		{[]string{qemufiles.SeparateOptions}, unikernel.Share{Source: "/run/a", Submounts: true},
			[]string{"--fd=3", "--shared-dir=/run/a", "--cache=auto", "--xattr", "--posix-acl", "--announce-submounts"}},
	} {
		if got := virtiofsdArgs(qemufiles.Virtiofsd{Features: tt.features}, &tt.share); !slices.Equal(got, tt.want) {
			t.Errorf("features %v: %q, want %q", tt.features, got, tt.want)
		}
	}
}

// What a killed owner leaves is ended and removed by the machine's name.
func TestCleanUpEmbedded(t *testing.T) {
	root := shortDir(t)
	target, err := parseTarget("", root)
	if err != nil {
		t.Fatal(err)
	}
	const name = "uni-a--b"
	qemu := standIn(t, qemuArgs(name, target.lib)...)
	probe := standIn(t, "/usr/bin/qemu-system-i386", "-qmp", "unix:"+target.lib+"/qmp-X/qmp.monitor")
	helper := standIn(t, helperName(target, name), "--fd=3")
	other := standIn(t, qemuArgs(name, "/elsewhere/lib/qemu")...)
	for file, text := range map[string]string{
		"run/qemu/" + name + ".pid": itoa(qemu.Process.Pid),
		"etc/qemu.conf":             "",
	} {
		path := filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a second time there is nothing to do
		if err := CleanUp(t.Context(), Options{EmbedRoot: root}, name); err != nil {
			t.Fatal(err)
		}
	}
	for what, cmd := range map[string]*exec.Cmd{"QEMU": qemu, "probe": probe, "virtiofsd": helper} {
		if len(arguments(cmd.Process.Pid)) > 0 {
			t.Errorf("%s runs on", what)
		}
	}
	if len(arguments(other.Process.Pid)) == 0 {
		t.Error("a machine of the same name in another root was ended")
	}
	if _, err := os.Stat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the root is left: %v", err)
	}
}

// The root of several machines stays while one of them runs.
func TestCleanUpKeepsOthers(t *testing.T) {
	root := shortDir(t)
	target, err := parseTarget("", root)
	if err != nil {
		t.Fatal(err)
	}
	standIn(t, qemuArgs("uni-a--other", target.lib)...)
	if err := os.MkdirAll(target.state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := CleanUp(t.Context(), Options{EmbedRoot: root}, "uni-a--b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(target.state); err != nil {
		t.Errorf("the other machine's state is gone: %v", err)
	}
}

// shortDir returns a directory whose path is short enough for sockets below.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return strings.TrimRight(dir, "/")
}

// Only a dead QEMU that left this session is libvirt's probe.
func TestIsDeadProbe(t *testing.T) {
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string // of the program
		setsid bool
		dead   bool
		want   bool
	}{
		{"qemu-system-x86_64", true, true, true},
		{"qemu-system-x86_64", true, false, false},
		{"qemu-system-x86_64", false, true, false},
		{"virtiofsd", true, true, false},
	}
	for i, tt := range tests {
		path := filepath.Join(dir, itoa(i), tt.name) // the kernel names a process by its file
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(exe, path); err != nil {
			t.Fatal(err)
		}
		cmd := &exec.Cmd{Path: path, Args: []string{tt.name}, Env: []string{"UNI_TEST_STANDIN=1"},
			SysProcAttr: &syscall.SysProcAttr{Setsid: tt.setsid}}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		if tt.dead {
			_ = unix.Kill(pid, unix.SIGKILL)
			var info unix.Siginfo // until it is a zombie
			if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := isDeadProbe(pid, session); got != tt.want {
			t.Errorf("%s, own session %v, dead %v: %v", tt.name, tt.setsid, tt.dead, got)
		}
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
	}
}

func TestGuestStatus(t *testing.T) {
	for code, want := range map[int]int{-1: -1, 0: -1, 1: 0, 2: -1, 3: 1, 85: 42, 255: 127} {
		got, ok := exitCode{code: code}.guestStatus()
		if ok != (want >= 0) || ok && int(got) != want {
			t.Errorf("QEMU's exit status %d: %d, %t", code, got, ok)
		}
	}
}
