package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// Descriptors of stage2 beside the standard ones.
const (
	fdSocket = 3 // to uni-init: description in, errors and terminal out
	fdRoot   = 4 // the container's root directory
	fdLast   = 5 // a file of the cgroup that is written to last, see entry
	fdTop    = 6 // a namespace of cgroups to join; both may be missing
)

// spawner is the thread that lives in a container's mount namespace and whose
// children are born in its PID namespace: the first one is the PID 1 of its own. It keeps
// uni-init's root directory, so it still finds uni-init's files. The namespaces end
// with it and with the last process in them, and so do their mounts.
type spawner struct {
	jobs chan func() // closed at the end
	// root is the container's root directory, O_PATH, upper the top of the file
	// system of its own layer; or -1.
	root, upper int
}

// newSpawner starts the thread in namespaces of its own; its children are in the PID
// namespace of a descriptor, which it closes, or with -1 in one of their own.
func newSpawner(pids int) (*spawner, error) {
	sp := &spawner{jobs: make(chan func()), root: -1, upper: -1}
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the function
		for job := range sp.jobs {
			job()
		}
	}()
	err := sp.do(func() error {
		flags := unix.CLONE_FS | unix.CLONE_NEWNS
		if pids < 0 {
			flags |= unix.CLONE_NEWPID
		} else {
			defer unix.Close(pids)
			if err := unix.Setns(pids, unix.CLONE_NEWPID); err != nil {
				return os.NewSyscallError("setns", err)
			}
		}
		if err := unix.Unshare(flags); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		return pathError("make private", "/", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	})
	if err != nil {
		close(sp.jobs)
		return nil, err
	}
	return sp, nil
}

// do runs f on the spawner's thread.
func (sp *spawner) do(f func() error) error {
	done := make(chan error)
	sp.jobs <- func() { done <- f() }
	return <-done
}

// open opens the directories that mountRoot made; own says that the layer is on a
// disk.
func (sp *spawner) open(own bool) error {
	fd, err := unix.Open(rootDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", rootDir, err)
	}
	sp.root = fd
	if !own {
		return nil
	}
	fd, err = unix.Open(upperDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", upperDir, err)
	}
	sp.upper = fd
	return nil
}

// end lets go of what the spawner holds. Nothing may use it afterwards.
func (sp *spawner) end() {
	for _, fd := range []int{sp.root, sp.upper} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	close(sp.jobs)
}

// fork starts stage2 with the given standard descriptors and socket.
func (sp *spawner) fork(std [3]int, sock int, e entry) (pid int, err error) {
	attr := &syscall.ProcAttr{
		Env:   []string{},
		Files: []uintptr{uintptr(std[0]), uintptr(std[1]), uintptr(std[2]), uintptr(sock), uintptr(sp.root), descriptor(e.last), descriptor(e.top)},
		Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: e.group},
	}
	err = sp.do(func() error {
		var err error
		pid, err = syscall.ForkExec("/proc/self/exe", []string{stage2Name, e.text}, attr)
		return err
	})
	return pid, err
}

// descriptor is a file's for a child, in which that of no file is closed.
func descriptor(f *os.File) uintptr {
	if f == nil {
		return ^uintptr(0)
	}
	return f.Fd()
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

// handshake gives stage2 the frames that describe it and waits until it became the
// application: its end of the socket closes with execve. It returns the
// terminal's master, or -1.
func handshake(sock int, frames []byte) (master int, err error) {
	master = -1
	defer func() {
		if err != nil && master >= 0 {
			unix.Close(master)
		}
	}()
	werr := writeAll(sock, frames)
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
