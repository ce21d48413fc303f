package integration

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/integration/inside"
)

// TestWallsBetweenPods asks the QEMU of one pod for what is another's: the disks of
// their containers came to machines that ran. Of those too it has a name for what it
// writes only.
func TestWallsBetweenPods(t *testing.T) {
	uniOnly(t)
	onNodes(t, func(t *testing.T, n *node) {
		mine, theirs := n.machineOfPod(t), n.machineOfPod(t)
		if mine.uid == theirs.uid || int(mine.gid) != mine.uid {
			t.Errorf("the pods' users are %d and %d, their groups %d and %d", mine.uid, theirs.uid, mine.gid, theirs.gid)
		}
		mine.confined(t)
		theirs.confined(t)
		insideQEMU(t, mine, theirs)
	})
}

// machineOfPod runs a pod with a container, and describes its machine.
func (n *node) machineOfPod(t *testing.T) machine {
	t.Helper()
	return describe(t, n.newMachine(t, func() { n.runPod(t, nil).run(t, nil, "sleep 1000") }))
}

// insideQEMU asks a machine's own QEMU, with all its filters on: it opens, calls and
// signals what is its neighbour's. At last it starts a program, for which it ends.
func insideQEMU(t *testing.T, mine, theirs machine) {
	t.Helper()
	p, err := inside.Attach(mine.pid)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := p.Filter()
	if err != nil {
		t.Error(err)
	}
	for name, call := range systemCalls {
		if allowed, err := filter.Allows(call.number, call.args...); err != nil || allowed != call.allowed {
			t.Errorf("%s: allowed %t, %v", name, allowed, err)
		}
	}
	for _, try := range ownCalls(mine, theirs) {
		_, err := p.Call(try.number, try.args...)
		if (err == nil) != try.allowed || errors.Is(err, inside.ErrKilled) {
			t.Errorf("from inside QEMU %s: %v", try.about, err)
		}
		t.Logf("from inside QEMU %s: %v", try.about, err)
	}
	if _, err := p.Call(unix.SYS_EXECVE, "/bin/sh", 0, 0); !errors.Is(err, inside.ErrKilled) {
		t.Errorf("QEMU starts a program: %v", err)
		if err := p.Detach(); err != nil {
			t.Error(err)
		}
	}
}

// systemCalls are some that QEMU must be let do, and those that reach parts of the
// kernel which it has no business with. Unknown ones are like the last.
var systemCalls = map[string]struct {
	number  uint32
	args    []uint64
	allowed bool
}{
	"read": {number: unix.SYS_READ, allowed: true}, "ppoll": {number: unix.SYS_PPOLL, allowed: true},
	"openat": {number: unix.SYS_OPENAT, allowed: true}, "ioctl": {number: unix.SYS_IOCTL, allowed: true},
	"a thread": {number: unix.SYS_CLONE, allowed: true, args: []uint64{unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
		unix.CLONE_THREAD | unix.CLONE_SYSVSEM | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID}},
	"a process": {number: unix.SYS_CLONE, args: []uint64{uint64(unix.SIGCHLD)}}, "fork": {number: unix.SYS_FORK}, "execve": {number: unix.SYS_EXECVE},
	"ptrace": {number: unix.SYS_PTRACE}, "process_vm_readv": {number: unix.SYS_PROCESS_VM_READV}, "pidfd_getfd": {number: unix.SYS_PIDFD_GETFD},
	"mount": {number: unix.SYS_MOUNT}, "fsopen": {number: unix.SYS_FSOPEN}, "move_mount": {number: unix.SYS_MOVE_MOUNT}, "open_tree": {number: unix.SYS_OPEN_TREE},
	"pivot_root": {number: unix.SYS_PIVOT_ROOT}, "unshare": {number: unix.SYS_UNSHARE}, "setns": {number: unix.SYS_SETNS},
	"setuid": {number: unix.SYS_SETUID}, "bpf": {number: unix.SYS_BPF}, "io_uring_setup": {number: unix.SYS_IO_URING_SETUP},
	"userfaultfd": {number: unix.SYS_USERFAULTFD}, "perf_event_open": {number: unix.SYS_PERF_EVENT_OPEN}, "keyctl": {number: unix.SYS_KEYCTL},
	"add_key": {number: unix.SYS_ADD_KEY}, "open_by_handle_at": {number: unix.SYS_OPEN_BY_HANDLE_AT}, "init_module": {number: unix.SYS_INIT_MODULE},
	"kexec_load": {number: unix.SYS_KEXEC_LOAD}, "a call of a later kernel": {number: 900},
}

// ownCall is one that QEMU's first thread does.
type ownCall struct {
	about   string
	number  uintptr
	args    []any
	allowed bool
}

func ownCalls(mine, theirs machine) []ownCall {
	open := func(about, path string, allowed bool, flags int) ownCall {
		return ownCall{about + " " + path, unix.SYS_OPENAT, []any{unix.AT_FDCWD, path, flags | unix.O_CLOEXEC, 0o600}, allowed}
	}
	var calls []ownCall
	for path := range mine.disks {
		calls = append(calls, open("its own disk", path, true, unix.O_RDWR))
	}
	for path := range theirs.disks {
		calls = append(calls, open("the neighbour's disk", path, false, unix.O_RDWR), open("the neighbour's disk", path, false, unix.O_RDONLY),
			open("the neighbour's root", filepath.Join(filepath.Dir(path), "root.erofs"), false, unix.O_RDONLY))
	}
	neighbour := strconv.Itoa(theirs.pid)
	for _, argument := range strings.Split(commandLine(theirs.pid), "\x00") {
		if _, path, found := strings.Cut(argument, `"file":"`); found && strings.Contains(path, "master-key.aes") {
			path, _, _ = strings.Cut(path, `"`)
			calls = append(calls, open("the neighbour's key", path, false, unix.O_RDONLY))
		}
	}
	return append(calls,
		open("the neighbour's memory", "/proc/"+neighbour+"/mem", false, unix.O_RDWR),
		open("accounts", "/etc/passwd", false, unix.O_RDONLY),
		open("a file in", "/tmp/uni-probe", false, unix.O_RDWR|unix.O_CREAT),
		open("a file in", "/uni-probe", false, unix.O_RDWR|unix.O_CREAT),
		open("KVM", "/dev/kvm", false, unix.O_RDWR),
		ownCall{"a signal to itself", unix.SYS_KILL, []any{mine.pid, 0}, true},
		ownCall{"a signal to the neighbour", unix.SYS_KILL, []any{theirs.pid, 0}, false},
		ownCall{"a debugger of the neighbour", unix.SYS_PTRACE, []any{unix.PTRACE_ATTACH, theirs.pid, 0, 0}, false},
		ownCall{"a ring of requests", unix.SYS_IO_URING_SETUP, []any{8, make([]byte, 120)}, false},
	)
}
