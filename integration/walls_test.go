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
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestWallsBetweenMachines asks from where a guest is that has taken over its
// QEMU: a thread in the namespaces of one machine's QEMU, with its root, user and
// groups and without capabilities, tries what is another machine's, the runtime's
// and the host's. It is not behind QEMU's seccomp filter and may do more than such
// a guest.
func TestWallsBetweenMachines(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		shared := t.TempDir()
		if err := os.WriteFile(filepath.Join(shared, "shared"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		defer func() { h.RemoveAll(context.WithoutCancel(t.Context())) }()
		mine := h.neighbour(t, container{id: "mine"})
		theirs := h.neighbour(t, container{id: "theirs", flags: mount(shared, "/shared", "rbind:rw")})
		if mine.uid == theirs.uid || mine.uid == 0 || theirs.uid == 0 {
			t.Fatalf("the machines' users are %d and %d", mine.uid, theirs.uid)
		}
		for _, m := range []machine{mine, theirs} { // access lists are on the file systems of this test
			if int(m.gid) != m.uid || slices.ContainsFunc(m.groups, func(g uint32) bool { return g != m.gid }) {
				t.Errorf("user %d has the groups %d, %v", m.uid, m.gid, m.groups)
			}
		}
		mine.confined(t)
		theirs.confined(t)
		h.served(t, theirs)

		tries := slices.Concat(own(mine), processes(theirs, h), files(t, mine, theirs, h), secrets(h), hosts(t))
		ask(t, mine, tries)
		for _, try := range tries {
			if _, err := os.Lstat(try.Target); filepath.IsAbs(try.Target) && errors.Is(err, fs.ErrNotExist) {
				continue // a host without it, or a file of a moment
			}
			if try.Refused == try.allowed {
				t.Errorf("%s: %s %s: refused %v (%s)", try.About, try.Kind, try.Target, try.Refused, try.Said)
			}
			t.Logf("%-28s %-8s %-70s %s", try.About, try.Kind, try.Target, try.Said)
		}
		insideQEMU(t, mine, theirs)
	})
}

// machine is a running QEMU, as the kernel describes it.
type machine struct {
	pid, uid int
	groups   []uint32
	gid      uint32
	status   map[string]string
	// disks are its open regular files that it has a name for; the value says that it
	// writes one.
	disks map[string]bool
}

// neighbour starts a container and describes its machine.
func (h *host) neighbour(t *testing.T, c container) machine {
	t.Helper()
	return describe(t, h.newMachine(t, func() {
		r := h.start(t, c, "sh", "-c", "echo ready; sleep 1000")
		r.expect(t, "ready")
	}))
}

// newMachine is the QEMU of the one machine that start starts.
func (h *host) newMachine(t *testing.T, start func()) (pid int) {
	t.Helper()
	before := h.find(t, "qemu-system")
	start()
	pids := slices.DeleteFunc(h.find(t, "qemu-system"), func(pid int) bool {
		return slices.Contains(before, pid) || strings.Contains(commandLine(pid), "guest=uni-template,") // which is made beside it
	})
	if len(pids) != 1 {
		t.Fatalf("new machines: %v", pids)
	}
	return pids[0]
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
	sees := seenFiles(t, pid)
	for _, fd := range fds {
		its, err := os.Stat(proc + "/fd/" + fd.Name())
		at := slices.IndexFunc(sees, func(path string) bool {
			info, serr := os.Stat(path)
			return err == nil && serr == nil && os.SameFile(info, its)
		})
		if at < 0 {
			continue // a socket, or libvirt's log
		}
		path := sees[at]
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
	if _, own, _ := strings.Cut(string(limits), "Max processes"); numbers(own)[0] == 0 || numbers(own)[0] > 1024 {
		t.Errorf("threads of QEMU are bounded by %s", own)
	}
	if m.status["NoNewPrivs"] != "1" {
		t.Error("QEMU may have new privileges")
	}
	if got, want := seenFiles(t, m.pid), slices.Sorted(maps.Keys(m.disks)); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("QEMU has the files %v, want its disks %v", got, want)
	}
	if slices.Contains(slices.Collect(maps.Values(m.disks)), false) {
		t.Errorf("QEMU has a name for what it only reads: %v", m.disks)
	}
}

// served checks the virtiofsd of a machine: the process that serves, which is the
// one in a PID namespace, is in namespaces of its own at the shared directory, behind
// a filter, and in the machine's cgroup.
func (h *host) served(t *testing.T, m machine) {
	t.Helper()
	serving := slices.DeleteFunc(h.find(t, "virtiofsd"), func(pid int) bool { return readLink(t, pid, "ns/pid") == readLink(t, os.Getpid(), "ns/pid") })
	if len(serving) != 1 {
		t.Fatalf("processes that serve a directory: %v", serving)
	}
	pid := serving[0]
	for _, ns := range []string{"ns/mnt", "ns/net"} {
		if its := readLink(t, pid, ns); its == readLink(t, os.Getpid(), ns) || its == readLink(t, m.pid, ns) {
			t.Errorf("virtiofsd shares %s", ns)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || !strings.Contains(string(status), "Seccomp:\t2\n") {
		t.Errorf("virtiofsd has no filter: %v", err)
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	qemus, qerr := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", m.pid))
	if err := errors.Join(err, qerr); err != nil || string(its) != string(qemus) {
		t.Errorf("virtiofsd is in the cgroups\n%sand QEMU in\n%s%v", its, qemus, err)
	}
	for _, path := range seenFiles(t, pid) {
		if filepath.Base(path) != "shared" {
			t.Errorf("virtiofsd has the file %s", path)
		}
	}
}

func readLink(t *testing.T, pid int, name string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// seenFiles are all that is below a process's root but for directories.
func seenFiles(t *testing.T, pid int) []string {
	t.Helper()
	var found []string
	root := fmt.Sprintf("/proc/%d/root", pid)
	err := filepath.WalkDir(root+"/", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, strings.TrimPrefix(path, root))
		}
		if len(found) > 100 {
			return fs.SkipAll // the host's
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// try is one thing that the probe does, and what became of it.
type try struct {
	About, Kind, Target string
	allowed, Refused    bool
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

// files are all that the runtime keeps, cached roots too: of them the probe has
// none but its own disks, and can call no socket.
func files(t *testing.T, mine, theirs machine, h *host) []try {
	t.Helper()
	var tries []try
	found := map[string]bool{}
	for _, root := range []string{h.state, h.data} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if _, own := mine.disks[path]; own {
				return nil
			}
			switch {
			case e.Type()&fs.ModeSocket != 0:
				found["socket"] = true
				tries = append(tries, try{About: "socket", Kind: "connect", Target: path})
			case e.IsDir():
				tries = append(tries, try{About: "directory", Kind: "create", Target: path})
			case e.Type().IsRegular():
				found["key"] = found["key"] || filepath.Base(path) == "master-key.aes" && strings.Contains(commandLine(theirs.pid), path)
				if filepath.Ext(path) == ".erofs" && strings.HasPrefix(path, filepath.Join(h.data, "cache")) {
					found["root"] = true
					closed(t, path)
				}
				tries = append(tries, try{About: "file", Kind: "read", Target: path}, try{About: "file", Kind: "write", Target: path})
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
	for _, what := range []string{"socket", "key", "layer", "root"} {
		if !found[what] {
			t.Errorf("there is no %s to try", what)
		}
	}
	return tries
}

// closed checks that a cached root is root's alone while machines run that read it.
func closed(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	_, lerr := unix.Getxattr(path, "system.posix_acl_access", nil)
	if !ok || st.Uid != 0 || info.Mode().Perm()&0o077 != 0 || !errors.Is(lerr, unix.ENODATA) {
		t.Errorf("%s is user %d's, %v, with an access list: %v", path, st.Uid, info.Mode(), lerr)
	}
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

// hosts are what everybody on the host can reach: files, devices, sockets and
// memory with a name. The test can, or does not start.
func hosts(t *testing.T) []try {
	t.Helper()
	tries := []try{
		{About: "the root", Kind: "create", Target: "/"},
		{About: "a user namespace", Kind: "userns"},
		{About: "the host's memory with names", Kind: "shm", Target: strconv.Itoa(sharedMemory(t))},
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/usr", "/etc", "/tmp", "/var/tmp", "/run", "/dev/shm", "/sys/fs/cgroup"} {
		tries = append(tries, try{About: "the host's", Kind: "list", Target: dir}, try{About: "the host's", Kind: "create", Target: dir})
	}
	for _, file := range []string{"/etc/passwd", "/usr/bin/qemu-system-x86_64", "/proc/self/exe", "/proc/1/cmdline", "/proc/cmdline",
		"/dev/null", "/dev/zero", "/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/urandom", "/dev/fuse", "/dev/ptmx"} {
		tries = append(tries, try{About: "the host's", Kind: "read", Target: file})
	}
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": "@uni-walls-" + strconv.Itoa(os.Getpid())} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go greet(l)
		tries = append(tries, try{About: "a service of the host", Kind: "greeted", Target: l.Addr().String()})
	}
	for _, try := range tries {
		if err := attempts[try.Kind](try.Target); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENXIO) && try.Kind != "create" {
			t.Errorf("%s %s cannot be tried, not even here: %v", try.Kind, try.Target, err)
		}
	}
	return tries
}

// greeting is what a service of the host says: a connection alone says nothing, since
// those to a container's own addresses reach the machine.
const greeting = "the host\n"

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, greeting)
		c.Close()
	}
}

// sharedMemory makes System V shared memory that is open to everybody.
func sharedMemory(t *testing.T) int {
	t.Helper()
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	return id
}

// asProbe is set in the environment of the probe, which is this program.
const asProbe = "UNI_TEST_PROBE"

// inquiry is what the probe is told: as what it does the tries.
type inquiry struct {
	Pid, Uid, Gid int
	Groups        []uint32
	Tries         []try
}

// ask lets a probe do the tries in a machine's place.
func ask(t *testing.T, m machine, tries []try) {
	t.Helper()
	data, err := json.Marshal(inquiry{m.pid, m.uid, int(m.gid), m.groups, tries})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{asProbe + "=1"}, bytes.NewReader(data)
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

// answerTries does what standard input says and tells what happened. All of it
// happens on one thread, the only one that is in the machine's place.
func answerTries() error {
	var p inquiry
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := become(p); err != nil {
		return err
	}
	for i, try := range p.Tries {
		err := attempts[try.Kind](try.Target)
		p.Tries[i].Said = "done"
		if err != nil {
			p.Tries[i].Said = err.Error()
		}
		p.Tries[i].Refused = slices.ContainsFunc(refusals, func(r error) bool { return errors.Is(err, r) })
		if err != nil && !p.Tries[i].Refused {
			return fmt.Errorf("%s %s: %w", try.Kind, try.Target, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(p.Tries)
}

// refusals are how the kernel says that one may not, or has no name for it. What
// is tried is there, as the test sees it.
var refusals = []error{fs.ErrPermission, fs.ErrNotExist, unix.EROFS, unix.ENOTDIR, unix.ECONNREFUSED}

// become puts this thread into the namespaces of a process, at its root, with its
// user and groups and no capabilities.
func become(p inquiry) error {
	proc := fmt.Sprintf("/proc/%d/", p.Pid)
	root, err := os.OpenFile(proc+"root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	var spaces []*os.File
	for _, name := range []string{"ipc", "net", "uts", "cgroup", "mnt"} {
		ns, err := os.Open(proc + "ns/" + name)
		if err != nil {
			return err
		}
		spaces = append(spaces, ns)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for _, ns := range spaces {
		if err := unix.Setns(int(ns.Fd()), 0); err != nil {
			return fmt.Errorf("enter %s: %w", ns.Name(), err)
		}
	}
	if err := errors.Join(unix.Fchdir(int(root.Fd())), unix.Chroot(".")); err != nil {
		return err
	}
	var groups unsafe.Pointer
	if len(p.Groups) > 0 {
		groups = unsafe.Pointer(&p.Groups[0])
	}
	// Of this thread alone; the package's functions do it to all.
	for _, call := range [][]uintptr{
		{unix.SYS_SETGROUPS, uintptr(len(p.Groups)), uintptr(groups), 0},
		{unix.SYS_SETRESGID, uintptr(p.Gid), uintptr(p.Gid), uintptr(p.Gid)},
		{unix.SYS_SETRESUID, uintptr(p.Uid), uintptr(p.Uid), uintptr(p.Uid)},
	} {
		if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
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
		fd, err := connects(path)
		if err == nil {
			unix.Close(fd)
		}
		return err
	},
	"greeted": func(address string) error {
		fd, err := connects(address)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
		said := make([]byte, len(greeting))
		if n, _ := unix.Read(fd, said); n < 0 || string(said[:n]) != greeting {
			return fs.ErrNotExist // somebody else
		}
		return nil
	},
	"shm": func(id string) error {
		_, err := unix.SysvShmAttach(number(id), 0, unix.SHM_RDONLY)
		if errors.Is(err, unix.EINVAL) { // shmat(2): no such number
			return fs.ErrNotExist
		}
		return err
	},
	"userns": func(string) error { return forks(unix.CLONE_NEWUSER) },
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

// connects calls a Unix socket, or a port, on the calling thread.
func connects(address string) (fd int, err error) {
	domain, to := unix.AF_UNIX, unix.Sockaddr(&unix.SockaddrUnix{Name: address})
	if at, err := netip.ParseAddrPort(address); err == nil {
		domain, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	if fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err = unix.Connect(fd, to); err != nil {
		unix.Close(fd)
	}
	return fd, err
}

// forks makes a process that ends at once. Only system calls that are made without
// Go's scheduler may be between.
func forks(flags uintptr) error {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 && errno == 0 {
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	if errno != 0 {
		return errno
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
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
