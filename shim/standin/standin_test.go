package standin

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// helper makes this binary start a stand-in, print its number and wait.
const helper = "STANDIN_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helper) == "" {
		os.Exit(m.Run())
	}
	pid, _, err := Start("/proc/self/ns/net", "default/c1")
	fmt.Println(pid, err)
	select {}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("needs root: set UNI_QEMU_TESTS=1")
	}
}

// begin starts a stand-in that ends with the test.
func begin(t testing.TB) (pid int, end func()) {
	t.Helper()
	pid, end, err := Start("/proc/self/ns/net", "default/c1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	asleep(t, pid)
	return pid, end
}

// asleep returns when a stand-in has done what it does before it waits.
func asleep(t testing.TB, pid int) {
	for state := ""; state != "S"; state = field(t, pid, "State:") {
		if state == "Z" {
			t.Fatal("it has ended")
		}
	}
}

func proc(pid int, path string) string { return filepath.Join("/proc", strconv.Itoa(pid), path) }

// TestNothingOfTheHost: what is reached through the stand-in is its own, and
// empty, but for the network.
func TestNothingOfTheHost(t *testing.T) {
	needRoot(t)
	pid, _ := begin(t)
	if entries, err := os.ReadDir(proc(pid, "root")); err != nil || len(entries) > 0 {
		t.Errorf("its root holds %v, %v", entries, err)
	}
	for what, do := range map[string]func(path string) error{
		"a file":      func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		if err := do(proc(pid, "root/new")); !errors.Is(err, unix.EROFS) {
			t.Errorf("make %s in its root: %v, want %v", what, err, unix.EROFS)
		}
	}
	if mounts, err := os.ReadFile(proc(pid, "mountinfo")); err != nil || strings.Count(string(mounts), "\n") != 1 {
		t.Errorf("it holds mounts of the host: %s, %v", mounts, err)
	} else if strings.Contains(string(mounts), "noexec") {
		t.Error("its root is noexec: the flag may come while its program is loaded, and ends it")
	}
	if cwd, err := os.Readlink(proc(pid, "cwd")); err != nil || cwd != "/" {
		t.Errorf("its directory is %s, %v", cwd, err)
	}
	for kind, shared := range map[string]bool{"net": true, "mnt": false, "pid": false, "ipc": false, "uts": false} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		theirs, err2 := os.Readlink(proc(pid, "ns/"+kind))
		if err := errors.Join(err, err2); err != nil || (ours == theirs) != shared {
			t.Errorf("namespace %s: ours %s, its %s, %v", kind, ours, theirs, err)
		}
	}
	if files, err := os.ReadDir(proc(pid, "fd")); err != nil || len(files) != 1 {
		t.Errorf("open files %v, %v: want the pipe alone", files, err)
	}
}

// TestOurselves: starting one changes nothing of this process.
func TestOurselves(t *testing.T) {
	needRoot(t)
	look := func() (seen []string) {
		for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts"} {
			link, err := os.Readlink("/proc/self/ns/" + kind)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, link)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return append(seen, string(mounts))
	}
	before := look()
	for range 20 {
		begin(t)
	}
	if after := look(); !slices.Equal(before, after) {
		t.Errorf("was %v, is %v", before, after)
	}
}

func TestEnd(t *testing.T) {
	needRoot(t)
	pid, end := begin(t)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	asleep(t, pid) // still
	end()
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("after its end: %v", err)
	}
	end() // again
}

// TestEndsWithStarter: a stand-in does not outlive a process that is killed.
func TestEndsWithStarter(t *testing.T) {
	needRoot(t)
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	starter, err := os.StartProcess("/proc/self/exe", []string{"starter"}, &os.ProcAttr{Env: []string{helper + "=1"}, Files: []*os.File{nil, w, nil}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	var failure string
	if _, err := fmt.Fscan(out, &pid, &failure); err != nil || failure != "<nil>" {
		t.Fatalf("%s %v", failure, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := starter.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := starter.Wait(); err != nil {
		t.Fatal(err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 60_000); n != 1 {
		t.Errorf("it outlived its starter: %v", err)
	}
}

// TestReaps: what another runtime's container leaves in the PID namespace does
// not stay as a zombie.
func TestReaps(t *testing.T) {
	needRoot(t)
	pid, _ := begin(t)
	ignored, err := strconv.ParseUint(field(t, pid, "SigIgn:"), 16, 64)
	if err != nil || ignored&(1<<(unix.SIGCHLD-1)) == 0 {
		t.Errorf("it ignores the signals %#x, want SIGCHLD among them: %v", ignored, err)
	}
}

// TestSmall: a stand-in has two pages of its own, one of code and one of stack.
// Above the bound something else came in.
func TestSmall(t *testing.T) {
	needRoot(t)
	pid, _ := begin(t)
	data, err := os.ReadFile(proc(pid, "smaps_rollup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
			t.Logf("%d KiB", kib)
			if kib > 32 {
				t.Errorf("it takes %d KiB", kib)
			}
			return
		}
	}
	t.Errorf("no proportional size in %q", data)
}

func field(t testing.TB, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); fields[0] == name {
			return fields[1]
		}
	}
	t.Fatalf("no %s in %q", name, data)
	return ""
}

func TestNoNamespace(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "x", "/proc/self/ns/uts"} {
		if _, _, err := Start(path, ""); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestProgram: the program is one that other readers of the format understand.
func TestProgram(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(program()))
	if err != nil {
		t.Fatal(err)
	}
	load := f.Progs[0]
	if load.Flags != elf.PF_R|elf.PF_X || f.Entry < load.Vaddr || f.Entry-load.Vaddr != load.Filesz-uint64(len(code)) {
		t.Errorf("entry %#x in %+v", f.Entry, load)
	}
	if stack := f.Progs[1]; stack.Type != elf.PT_GNU_STACK || stack.Flags&elf.PF_X != 0 {
		t.Errorf("stack %+v", stack)
	}
}

func BenchmarkStart(b *testing.B) {
	needRoot(b)
	for b.Loop() {
		_, end, err := Start("/proc/self/ns/net", "default/c1")
		if err != nil {
			b.Fatal(err)
		}
		end()
	}
}
