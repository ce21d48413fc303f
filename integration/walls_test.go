package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWallsBetweenMachines asks from where a guest is that has taken over its
// QEMU: a program with just the user, the groups and the bounding set of one
// machine's QEMU tries what is another machine's, the runtime's and the host's.
// It is not behind QEMU's seccomp filter and may do more than such a guest.
func TestWallsBetweenMachines(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		shared := t.TempDir()
		defer func() { h.RemoveAll(context.WithoutCancel(t.Context())) }()
		mine := h.neighbour(t, container{id: "mine"})
		theirs := h.neighbour(t, container{id: "theirs", flags: mount(shared, "/shared", "rbind:rw")})
		if mine.uid == theirs.uid || mine.uid == 0 || theirs.uid == 0 {
			t.Fatalf("the machines' users are %d and %d", mine.uid, theirs.uid)
		}
		mine.confined(t)
		theirs.confined(t)

		tries := slices.Concat(own(mine), processes(theirs, h), files(t, mine, theirs, h), secrets(h))
		ask(t, mine, tries)
		for _, try := range tries {
			if _, err := os.Lstat(try.Target); try.Gone && errors.Is(err, fs.ErrNotExist) {
				continue // a host without it, or a file of a moment
			}
			if try.Refused == try.allowed {
				t.Errorf("%s: %s %s: refused %v (%s)", try.About, try.Kind, try.Target, try.Refused, try.Said)
			}
			t.Logf("%-28s %-8s %-70s %s", try.About, try.Kind, try.Target, try.Said)
		}
	})
}

// machine is a running QEMU, as the kernel describes it.
type machine struct {
	pid, uid int
	groups   []uint32
	gid      uint32
	status   map[string]string
	// disks are its open regular files; the value says that it writes one.
	disks map[string]bool
}

// neighbour starts a container and describes its machine.
func (h *host) neighbour(t *testing.T, c container) machine {
	t.Helper()
	before := h.find(t, "qemu-system")
	r := h.start(t, c, "sh", "-c", "echo ready; sleep 1000")
	r.expect(t, "ready")
	pids := slices.DeleteFunc(h.find(t, "qemu-system"), func(pid int) bool { return slices.Contains(before, pid) })
	if len(pids) != 1 {
		t.Fatalf("new machines: %v", pids)
	}
	return describe(t, pids[0])
}

func describe(t *testing.T, pid int) machine {
	t.Helper()
	m := machine{pid: pid, status: map[string]string{}, disks: map[string]bool{}}
	proc := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		m.status[name] = strings.TrimSpace(value)
	}
	m.uid = int(numbers(m.status["Uid"])[0])
	m.gid, m.groups = numbers(m.status["Gid"])[0], numbers(m.status["Groups"])
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		path, err := os.Readlink(proc + "/fd/" + fd.Name())
		info, serr := os.Stat(path)
		if err != nil || serr != nil || !info.Mode().IsRegular() || filepath.Ext(path) == ".log" {
			continue
		}
		said, err := os.ReadFile(proc + "/fdinfo/" + fd.Name())
		if err != nil {
			t.Fatal(err)
		}
		_, flags, _ := strings.Cut(string(said), "flags:\t")
		flags, _, _ = strings.Cut(flags, "\n")
		bits, err := strconv.ParseUint(flags, 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		m.disks[path] = m.disks[path] || bits&unix.O_ACCMODE == unix.O_RDWR
	}
	return m
}

func numbers(s string) []uint32 {
	var all []uint32
	for f := range strings.FieldsSeq(s) {
		n, _ := strconv.ParseUint(f, 10, 32)
		all = append(all, uint32(n))
	}
	return all
}

// confined checks what holds for the QEMU itself.
func (m machine) confined(t *testing.T) {
	t.Helper()
	if m.status["Seccomp"] != "2" || numbers(m.status["CapEff"])[0] != 0 || m.status["CapPrm"] != m.status["CapEff"] {
		t.Errorf("QEMU has seccomp %s, capabilities %s", m.status["Seccomp"], m.status["CapEff"])
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", m.pid))
	if _, core, _ := strings.Cut(string(limits), "Max core file size"); err != nil || !slices.Equal(strings.Fields(core)[:2], []string{"0", "0"}) {
		t.Errorf("core dumps of QEMU are bounded by %s, %v", limits, err)
	}
	if !slices.Contains(slices.Collect(maps.Values(m.disks)), true) {
		t.Errorf("QEMU writes none of %v", m.disks)
	}
}

// try is one thing that the probe does, and what became of it.
type try struct {
	About, Kind, Target string
	allowed             bool
	Refused, Gone       bool // not there, for the probe
	Said                string
}

// own is what the probe can do in the place of its QEMU: without that, all
// refusals would say nothing.
func own(m machine) []try {
	tries := []try{{About: "own process", Kind: "signal", Target: strconv.Itoa(m.pid), allowed: true}}
	for path, writes := range m.disks {
		tries = append(tries, try{About: "own disk", Kind: "read", Target: path, allowed: true},
			try{About: "own disk", Kind: "write", Target: path, allowed: writes})
	}
	return tries
}

// processes are the neighbour's QEMU and what serves machines.
func processes(m machine, h *host) []try {
	var tries []try
	for _, pid := range append(h.Processes(), m.pid) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		program, _, _ := strings.Cut(string(line), "\x00")
		program = filepath.Base(program)
		if pid != m.pid && strings.HasPrefix(program, "qemu-system") {
			continue // perhaps the probe's own
		}
		who, id := "process "+program[:min(len(program), 18)], strconv.Itoa(pid)
		tries = append(tries, try{About: who, Kind: "signal", Target: id}, try{About: who, Kind: "ptrace", Target: id},
			try{About: who, Kind: "write", Target: "/proc/" + id + "/mem"}, try{About: who, Kind: "read", Target: "/proc/" + id + "/mem"},
			try{About: who, Kind: "read", Target: "/proc/" + id + "/environ"}, try{About: who, Kind: "list", Target: "/proc/" + id + "/fd"},
			try{About: who, Kind: "list", Target: "/proc/" + id + "/root/"})
	}
	return tries
}

// files are all that the runtime keeps: none but the probe's own disks can be
// written, of the neighbour's only what machines share be read, and no socket
// be called.
func files(t *testing.T, mine, theirs machine, h *host) []try {
	t.Helper()
	var tries []try
	found := map[string]bool{}
	for _, root := range []string{h.state, h.data} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if info, err := e.Info(); err == nil && info.Sys().(*syscall.Stat_t).Uid == uint32(mine.uid) {
				return nil // its own: the neighbour's are named below
			}
			switch {
			case e.Type()&fs.ModeSocket != 0:
				found["socket"] = true
				tries = append(tries, try{About: "socket", Kind: "connect", Target: path})
			case e.IsDir():
				tries = append(tries, try{About: "directory", Kind: "create", Target: path})
			case e.Type().IsRegular():
				tries = append(tries, try{About: "file", Kind: "write", Target: path})
				if filepath.Base(path) == "master-key.aes" && !strings.Contains(commandLine(mine.pid), path) {
					found["key"] = true
					tries = append(tries, try{About: "neighbour's key", Kind: "read", Target: path})
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, writes := range theirs.disks {
		if writes {
			found["layer"] = true
			tries = append(tries, try{About: "neighbour's disk", Kind: "read", Target: path}, try{About: "neighbour's disk", Kind: "write", Target: path})
		}
	}
	for _, what := range []string{"socket", "key", "layer"} {
		if !found[what] {
			t.Errorf("there is no %s to try", what)
		}
	}
	return tries
}

func commandLine(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(line)
}

// secrets are the host's, and ways to become more than one is.
func secrets(h *host) []try {
	return []try{
		{About: "passwords", Kind: "read", Target: "/etc/shadow"},
		{About: "accounts", Kind: "write", Target: "/etc/passwd"},
		{About: "root's files", Kind: "list", Target: "/root"},
		{About: "machines' users", Kind: "list", Target: "/var/lib/uni/identities"},
		{About: "containerd", Kind: "connect", Target: h.Address()},
		{About: "the host's memory", Kind: "read", Target: "/dev/mem"},
		{About: "the host's programs", Kind: "write", Target: "/usr/bin/qemu-system-x86_64"},
		{About: "root", Kind: "become", Target: "0"},
		{About: "another machine", Kind: "become", Target: "2100000000"},
	}
}

// asProbe is set in the environment of the probe, which is this program.
const asProbe = "UNI_TEST_PROBE"

// ask lets a probe with a machine's credentials do the tries.
func ask(t *testing.T, m machine, tries []try) {
	t.Helper()
	data, err := json.Marshal(tries)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), publicCopy(t))
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{asProbe + "=1"}, bytes.NewReader(data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(m.uid), Gid: m.gid, Groups: m.groups}}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("probe: %v: %s", err, errs.String())
	}
	if err := json.Unmarshal(out, &tries); err != nil {
		t.Fatal(err)
	}
}

// publicCopy is this program where everybody can run it.
func publicCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "uni-probe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	to, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(to, self)
	if err := errors.Join(err, to.Close(), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}

// answerTries does what standard input says and tells what happened.
func answerTries() error {
	var tries []try
	if err := json.NewDecoder(os.Stdin).Decode(&tries); err != nil {
		return err
	}
	for i := range tries {
		err := attempts[tries[i].Kind](tries[i].Target)
		tries[i].Said = "done"
		if err != nil {
			tries[i].Said = err.Error()
		}
		// What is not there was not tried, and is no refusal.
		tries[i].Gone = errors.Is(err, fs.ErrNotExist)
		tries[i].Refused = errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
		if err != nil && !tries[i].Refused && !tries[i].Gone {
			return fmt.Errorf("%s %s: %w", tries[i].Kind, tries[i].Target, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(tries)
}

// attempts change nothing where they succeed.
var attempts = map[string]func(target string) error{
	"read":  func(path string) error { return opens(path, os.O_RDONLY) },
	"write": func(path string) error { return opens(path, os.O_RDWR) },
	"list":  func(path string) error { _, err := os.ReadDir(path); return err },
	"create": func(dir string) error {
		f, err := os.CreateTemp(dir, "probe-*")
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Remove(f.Name()))
	},
	"connect": func(path string) error {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err
	},
	"signal": func(pid string) error { return unix.Kill(number(pid), 0) },
	"ptrace": func(pid string) error {
		runtime.LockOSThread()
		err := unix.PtraceSeize(number(pid))
		if err == nil {
			_ = unix.PtraceDetach(number(pid))
		}
		return err
	},
	"become": func(uid string) error {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETUID, uintptr(number(uid)), 0, 0) // this thread alone
		if errno != 0 {
			return errno
		}
		return nil
	},
}

func opens(path string, flags int) error {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err == nil {
		f.Close()
	}
	return err
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 1 << 30 // no process
	}
	return n
}
