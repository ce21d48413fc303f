package main

import (
	"os"
	"strings"
	"syscall"
	"unsafe"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// stage2Name is the program name under which uni-init sets up a process.
const stage2Name = "uni-stage2"

// stage2 runs in the container's namespaces, with uni-init's root still, and
// becomes the process it is told to on its socket. It returns only if that
// failed, which it has then told.
func stage2() {
	for _, fd := range []int{fdSocket, fdRoot, fdLast, fdTop} {
		unix.CloseOnExec(fd)
	}
	if err := becomeProcess(); err != nil {
		say(append([]byte{sayError}, replyOf(err).Encode()...))
	}
	os.Exit(1)
}

// say writes to uni-init.
func say(b []byte) { writeAll(fdSocket, b) }

// socketReader reads from fdSocket.
type socketReader struct{}

func (socketReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(fdSocket, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, wire.ErrFrame
		default:
			return n, nil
		}
	}
}

func becomeProcess() error {
	// The application's cgroup is what the process sees as the top. The first one is in
	// it already; a kernel that cannot show it so shows the machine's.
	if unix.Setns(fdTop, unix.CLONE_NEWCGROUP) != nil {
		unix.Unshare(unix.CLONE_NEWCGROUP)
	}
	r := wire.NewReader(socketReader{}, wire.MaxHostPayload)
	f, err := r.Read()
	if err != nil {
		return err
	}
	var c *wire.Container // of which this is the first process
	if f.Kind == wire.KindContainer {
		described, err := wire.DecodeContainer(f.Payload)
		if err != nil {
			return err
		}
		c = &described
		if f, err = r.Read(); err != nil {
			return err
		}
	}
	x, err := wire.DecodeStart(f.Payload)
	if err != nil {
		return err
	}
	if c != nil {
		return runContainer(c, &x.Process)
	}
	if x.Process.Terminal {
		if err := openTerminal(&x.Process, false); err != nil {
			return wrap("open the terminal", err)
		}
	}
	if err := changeRoot(fdRoot); err != nil {
		return err
	}
	return execute(&x.Process)
}

// runContainer sets up what only a process inside the namespaces can, then
// becomes the container's process.
func runContainer(c *wire.Container, p *wire.Process) error {
	if err := mountAll(c); err != nil {
		return err
	}
	if err := makeDevices(fdRoot, c); err != nil {
		return err
	}
	if p.Cwd != "" {
		fd, err := walk(fdRoot, p.Cwd, wantDir)
		if err != nil {
			return pathError("mkdir", p.Cwd, err)
		}
		unix.Close(fd)
	}
	if p.Terminal {
		if err := openTerminal(p, true); err != nil {
			return wrap("open the terminal", err)
		}
	}
	if err := restrictPaths(c); err != nil {
		return err
	}
	if err := moveRoot(); err != nil {
		return err
	}
	return execute(p)
}

// moveRoot makes the container's root the root of the mount namespace. The
// initramfs cannot be pivoted away; below the moved root nobody sees it.
func moveRoot() error {
	if err := unix.Fchdir(fdRoot); err != nil {
		return pathError("chdir", rootDir, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return pathError("move mount", rootDir, err)
	}
	return changeRoot(fdRoot)
}

// changeRoot makes a directory this process' root and working directory.
func changeRoot(fd int) error {
	if err := unix.Fchdir(fd); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	return nil
}

// openTerminal makes a pseudo terminal in the container's devpts, sends its
// master to uni-init and takes its other end for the standard descriptors. A
// container's own terminal is also its /dev/console.
func openTerminal(p *wire.Process, console bool) error {
	dir, err := walk(fdRoot, "/dev/pts/ptmx", wantExisting)
	if err != nil {
		return &failure{wire.CodeInvalid, "no devpts is mounted at /dev/pts: " + err.Error()}
	}
	defer unix.Close(dir)
	master, err := unix.Open(fdPath(dir), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", "/dev/pts/ptmx", err)
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("unlock", err)
	}
	if p.Width > 0 && p.Height > 0 {
		if err := setSize(master, p.Width, p.Height); err != nil {
			return os.NewSyscallError("set size", err)
		}
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		return os.NewSyscallError("open peer", errno)
	}
	peer := int(r)
	if console {
		if err := bindConsole(peer); err != nil {
			return wrap("/dev/console", err)
		}
	}
	if _, err := unix.SendmsgN(fdSocket, []byte{sayTTY}, unix.UnixRights(master), nil, unix.MSG_NOSIGNAL); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	for fd := 0; fd <= 2; fd++ {
		if err := unix.Dup3(peer, fd, 0); err != nil {
			return os.NewSyscallError("dup", err)
		}
	}
	unix.Close(peer)
	return os.NewSyscallError("set controlling terminal", unix.IoctlSetInt(0, unix.TIOCSCTTY, 0))
}

func bindConsole(peer int) error {
	fd, err := walk(fdRoot, "/dev/console", wantFile)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Mount(fdPath(peer), fdPath(fd), "", unix.MS_BIND, "")
}

// execute applies the process' own settings, in runc's order, and becomes it.
// It runs with the container's root.
func execute(p *wire.Process) error {
	if len(p.Args) == 0 {
		return &failure{wire.CodeInvalid, "no program to execute"}
	}
	if err := applyLimits(p); err != nil {
		return err
	}
	env := environment(p.Env, p.UID)
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("set no_new_privs", err)
		}
	} else if err := loadFilter(p); err != nil { // while it may: the filter must let it become the user
		return err
	}
	if err := becomeUser(p); err != nil {
		return err
	}
	path, err := lookPath(p.Args[0], getenv(env, "PATH"))
	if err != nil {
		return err
	}
	say([]byte{sayReady})
	if err := writeLast(); err != nil {
		return err
	}
	if p.NoNewPrivileges { // as late as can be
		if err := loadFilter(p); err != nil {
			return err
		}
	}
	err = syscall.Exec(path, p.Args, env)
	return &failure{wire.CodeInvalid, "exec " + path + ": " + err.Error() + whyNotExecuted(path, err)}
}

// loadFilter applies the container's seccomp profile to the calling thread, which is
// the one that executes.
func loadFilter(p *wire.Process) error {
	const size = 8 // of struct sock_filter
	n := len(p.Filter) / size
	if n == 0 {
		return nil
	}
	program := make([]unix.SockFilter, n)
	for i := range program {
		f := p.Filter[i*size:]
		program[i] = unix.SockFilter{
			Code: uint16(f[0]) | uint16(f[1])<<8, Jt: f[2], Jf: f[3],
			K: uint32(f[4]) | uint32(f[5])<<8 | uint32(f[6])<<16 | uint32(f[7])<<24,
		}
	}
	all := unix.SockFprog{Len: uint16(n), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.FilterFlags), uintptr(unsafe.Pointer(&all)))
	if errno != 0 {
		return wrap("the container's seccomp profile", os.NewSyscallError("seccomp", errno))
	}
	return nil
}

// writeLast does what entry.last is for. From here on a thread more may be refused, so
// the Go runtime must not see the call, for which it would start one.
func writeLast() error {
	if len(os.Args) < 2 || os.Args[1] == "" {
		return nil
	}
	text := []byte(os.Args[1])
	if _, _, errno := unix.RawSyscall(unix.SYS_WRITE, fdLast, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text))); errno != 0 {
		return os.NewSyscallError("enter the container's cgroup", errno)
	}
	return nil
}

// whyNotExecuted explains errors of execve(2) that a file which is there gives.
func whyNotExecuted(path string, err error) string {
	if err != error(unix.ENOENT) && err != error(unix.ENOEXEC) {
		return ""
	}
	f, openErr := os.Open(path)
	if openErr != nil { // it may be executed and not read
		return ""
	}
	defer f.Close()
	start := make([]byte, 256) // as much as the kernel reads of it (BINPRM_BUF_SIZE)
	n, _ := f.Read(start)
	line, _, _ := strings.Cut(string(start[:n]), "\n")
	interpreter, script := strings.CutPrefix(line, "#!")
	switch {
	case !script && err == error(unix.ENOENT):
		return ": the program's loader (its ELF interpreter) is not in the image"
	case !script:
		return ": it is neither a program for this machine nor a script that starts with #!"
	case strings.HasSuffix(interpreter, "\r"):
		return ": it has Windows line ends, and there is no interpreter " + quote(strings.TrimSpace(interpreter[:len(interpreter)-1])+"\r") + ": save it with Unix line ends, for example with dos2unix"
	default:
		return ": its interpreter " + quote(strings.TrimSpace(interpreter)) + " is not in the image"
	}
}

// applyLimits sets what root may still set.
func applyLimits(p *wire.Process) error {
	for _, r := range p.Rlimits {
		// Package syscall's call, not the bare one: for RLIMIT_NOFILE it also
		// stops syscall.Exec from putting back what the process started with.
		if err := syscall.Setrlimit(int(r.Resource), &syscall.Rlimit{Cur: r.Soft, Max: r.Hard}); err != nil {
			return &failure{wire.CodeInvalid, "error setting rlimit type " + formatUint(uint64(r.Resource)) + ": " + err.Error()}
		}
	}
	if p.SetOOMScoreAdj {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte(formatInt(p.OOMScoreAdj)), 0); err != nil {
			return wrap("set oom_score_adj", err)
		}
	}
	unix.Umask(int(p.Umask))
	return nil
}

func formatInt(n int64) string {
	if n < 0 {
		return "-" + formatUint(uint64(-n))
	}
	return formatUint(uint64(n))
}
