package main

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// Descriptors of stage2 beside the standard ones.
const (
	fdSocket = 3 // to uni-init: description in, errors and terminal out
	fdRoot   = 4 // the container's root directory
)

// spawner is the thread that lives in the container's mount namespace and
// whose children are born in its PID namespace: the first one is its PID 1.
// It keeps uni-init's root directory, so it still finds uni-init's files.
type spawner struct {
	jobs chan func()
	up   atomic.Bool // setup is done
	root int         // the container's root directory, O_PATH
	// upper is the directory of the writable layer's disk, or -1.
	upper int

	spaceMu sync.Mutex // guards what follows, and that up is set
	// space is what the host has for the disk.
	space      wire.Space
	spaceKnown bool
	// cgroup is the directory of the container's cgroup, or -1 before setup.
	cgroup int
}

func newSpawner() *spawner {
	sp := &spawner{jobs: make(chan func()), root: -1, upper: -1, cgroup: -1}
	go func() {
		runtime.LockOSThread()
		for job := range sp.jobs {
			job()
		}
	}()
	return sp
}

// do runs f on the spawner's thread.
func (sp *spawner) do(f func() error) error {
	done := make(chan error)
	sp.jobs <- func() { done <- f() }
	return <-done
}

func (sp *spawner) ready() bool { return sp.up.Load() }

// setup prepares what belongs to the container and not to its first process.
func (sp *spawner) setup(c *wire.Container) error {
	if err := setNames(c); err != nil {
		return err
	}
	if err := setNetwork(&c.Network); err != nil {
		return wrap("network", err)
	}
	if err := setSysctls(c.Sysctls); err != nil {
		return err
	}
	err := sp.do(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWPID); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := mountRoot(c); err != nil {
			return err
		}
		if c.Writable {
			fd, err := unix.Open(upperDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return pathError("open", upperDir, err)
			}
			sp.upper = fd
		}
		fd, err := unix.Open(rootDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		sp.root = fd
		return pathError("open", rootDir, err)
	})
	if err != nil {
		return err
	}
	if sp.cgroup, err = makeCgroup(); err != nil {
		return wrap("the container's cgroup", err)
	}
	if c.PidsLimit > 0 {
		if err := limit(wire.Limits{Pids: &c.PidsLimit}); err != nil {
			return err
		}
	}
	sp.spaceMu.Lock()
	defer sp.spaceMu.Unlock()
	if err := sp.limitSpace(); err != nil {
		return err
	}
	sp.up.Store(true)
	return nil
}

// fork starts stage2 with the given standard descriptors and socket.
func (sp *spawner) fork(std [3]int, sock int) (pid int, err error) {
	attr := &syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{uintptr(std[0]), uintptr(std[1]), uintptr(std[2]), uintptr(sock), uintptr(sp.root)},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if sp.cgroup >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, sp.cgroup
	}
	err = sp.do(func() error {
		var err error
		pid, err = syscall.ForkExec("/proc/self/exe", []string{stage2Name}, attr)
		return err
	})
	return pid, err
}

// setNames sets the names of the machine, which is the container.
func setNames(c *wire.Container) error {
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if c.Domainname != "" {
		if err := unix.Setdomainname([]byte(c.Domainname)); err != nil {
			return os.NewSyscallError("setdomainname", err)
		}
	}
	return nil
}

// setSysctls writes kernel parameters; their names come with dots or slashes.
func setSysctls(list [][2]string) error {
	for _, kv := range list {
		path := "/proc/sys/" + strings.ReplaceAll(kv[0], ".", "/")
		if err := os.WriteFile(path, []byte(kv[1]), 0); err != nil {
			return &failure{wire.CodeInvalid, "sysctl " + kv[0] + ": " + err.Error()}
		}
	}
	return nil
}

func formatUint(n uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

// handshake gives stage2 its description and waits until it became the
// application: its end of the socket closes with execve. It returns the
// terminal's master, or -1.
func handshake(sock int, kind wire.Kind, description []byte) (master int, err error) {
	master = -1
	defer func() {
		if err != nil && master >= 0 {
			unix.Close(master)
		}
	}()
	werr := writeAll(sock, wire.AppendFrame(nil, kind, 0, description))
	var answer []byte
	buf := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, rerr := unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if rerr == unix.EINTR {
			continue
		}
		if fd, ok := passedFD(oob[:max(oobn, 0)]); ok {
			master = fd
		}
		if rerr != nil || n <= 0 {
			break
		}
		answer = append(answer, buf[:n]...)
	}
	return master, judge(answer, werr)
}

// What stage2 says on its socket.
const (
	sayReady = 'R' // all is set up, execve is next
	sayTTY   = 'T' // comes with the terminal's master
	sayError = 'E' // then a Reply
)

// errSilent: stage2 died without a word.
var errSilent error = &failure{wire.CodeInternal, "the process died while it was set up"}

// judge makes an error of what stage2 said; silence after sayReady is success.
func judge(answer []byte, werr error) error {
	ready := false
	for i, c := range answer {
		switch c {
		case sayReady:
			ready = true
		case sayTTY:
		case sayError:
			r, err := wire.DecodeReply(answer[i+1:])
			if err != nil {
				return err
			}
			return &failure{r.Code, r.Text}
		default:
			return wire.ErrFrame
		}
	}
	if !ready {
		if werr != nil && !isErrno(werr, unix.EPIPE) {
			return wrap("start the process", werr)
		}
		return errSilent
	}
	return nil
}

func passedFD(oob []byte) (int, bool) {
	if len(oob) == 0 {
		return -1, false
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(msgs) != 1 {
		return -1, false
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, false
	}
	return fds[0], true
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b = b[n:]
	}
	return nil
}

// waitFor calls f until it says yes or the time is over.
func waitFor(limit time.Duration, f func() bool) bool {
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if f() {
			return true
		}
		if time.Since(start) > limit {
			return false
		}
	}
}
