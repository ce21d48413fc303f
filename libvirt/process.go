package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a process of this host, held by a pidfd so that its number being
// used again cannot mislead.
type process struct {
	pid   int
	group int      // its process group, 0 unknown
	file  *os.File // the pidfd
}

// openProcess takes hold of a process that runs now.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // before Linux 5.10
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	if group, err := unix.Getpgid(pid); err == nil && group != unix.Getpgrp() {
		p.group = group
	}
	return p, nil
}

// exitCode is how a child of ours ended.
type exitCode struct {
	text string // for a person; empty when nothing is known
	code int    // -1 when it is not known, or a signal ended it
}

// unknownCode is that of a process that is not our child.
var unknownCode = exitCode{code: -1}

// guestStatus returns the status with which a guest ended its QEMU by the
// isa-debug-exit device: that exits with twice what is written, plus 1 (QEMU,
// hw/misc/debugexit.c).
func (e exitCode) guestStatus() (status uint32, ok bool) {
	return uint32(e.code) >> 1, e.code > 0 && e.code&1 == 1
}

// wait returns when the process has ended, as a zombie at least, or with
// os.ErrClosed after close. A child of ours is reaped; its status is returned.
func (p *process) wait() (status exitCode, err error) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return unknownCode, err
	}
	if err = raw.Read(hasEnded); err != nil {
		return unknownCode, err
	}
	return p.reap(), nil
}

// hasEnded tells whether the process of a pidfd is a zombie or gone.
func hasEnded(pidfd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return n > 0 && err == nil
}

// runs tells whether the process has not ended; after close it is false.
func (p *process) runs() (running bool) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) { running = !hasEnded(fd) })
	return running && err == nil
}

// waitContext is wait bounded by a context. After the context ends the process
// can't be waited for again.
func (p *process) waitContext(ctx context.Context) (exitCode, error) {
	stop := context.AfterFunc(ctx, func() { p.file.Close() })
	defer stop()
	status, err := p.wait()
	if err != nil && ctx.Err() != nil {
		return unknownCode, ctx.Err()
	}
	return status, err
}

// reap takes the exit status of a child of ours, exactly of this one: while
// its zombie waits, which the pidfd tells, the number is not used again.
func (p *process) reap() exitCode {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return unknownCode
	}
	var info unix.Siginfo
	cerr := raw.Control(func(fd uintptr) {
		err = unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if cerr != nil || err != nil || info.Signo == 0 {
		return unknownCode // not our child, or reaped already
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &ws, unix.WNOHANG, nil); err != nil {
		return unknownCode
	}
	if ws.Signaled() {
		return exitCode{"killed by " + unix.SignalName(ws.Signal()), -1}
	}
	return exitCode{fmt.Sprintf("exit status %d", ws.ExitStatus()), ws.ExitStatus()}
}

// signal sends a signal; a process that has ended is not an error.
func (p *process) signal(sig unix.Signal) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if err = errors.Join(cerr, err); errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (p *process) close() { p.file.Close() }

// arguments returns a process's command line. It is empty for a zombie.
func arguments(pid int) []string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || len(data) == 0 {
		return nil
	}
	var args []string
	for a := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		args = append(args, string(a))
	}
	return args
}

// isMachine tells whether a command line is that of the QEMU that libvirt with
// this directory lib started for the domain.
func isMachine(args []string, name, lib string) bool {
	at := slices.Index(args, "-name")
	return at >= 0 && at+1 < len(args) && strings.HasPrefix(args[at+1]+",", "guest="+name+",") && isMachineOf(args, lib)
}

// isMachineOf tells whether a command line is that of any domain's QEMU of this
// libvirt: the domain's secret lies in a directory of its own below lib.
func isMachineOf(args []string, lib string) bool {
	return hasArgument(args, `"`+lib+`/domain-`)
}

// isProbeOf tells whether a command line is that of a QEMU with which this
// libvirt finds out what QEMU can do.
func isProbeOf(args []string, lib string) bool { return hasArgument(args, lib+"/qmp-") }

// hasArgument tells whether a QEMU has an argument that holds part.
func hasArgument(args []string, part string) bool {
	return len(args) > 1 && strings.HasPrefix(filepath.Base(args[0]), "qemu-") &&
		slices.ContainsFunc(args[1:], func(a string) bool { return strings.Contains(a, part) })
}

// readPid returns the process of a pid file, or 0.
func readPid(file string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return number(strings.TrimSpace(string(data)))
}

// number returns the process id that s writes, or 0.
func number(s string) int {
	pid, err := strconv.Atoi(s)
	if err != nil || pid < 2 {
		return 0
	}
	return pid
}

// findQEMU takes hold of a domain's QEMU: the process in libvirt's pid file if
// it is really that one, else one that says so itself. It returns nil when
// there is none.
func findQEMU(t target, name string) *process {
	ours := func(args []string) bool { return isMachine(args, name, t.lib) }
	if p := verified(readPid(filepath.Join(t.state, name+".pid")), ours); p != nil {
		return p
	}
	for p := range allProcesses(ours) {
		return p
	}
	return nil
}

// allProcesses takes hold of one process after the other whose command line is
// ours.
func allProcesses(ours func(args []string) bool) iter.Seq[*process] {
	return func(yield func(*process) bool) {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, e := range entries {
			if pid := number(e.Name()); pid > 0 && ours(arguments(pid)) {
				if p := verified(pid, ours); p != nil && !yield(p) {
					return
				}
			}
		}
	}
}

// verified takes hold of a process, then looks at its command line: in this
// order the number cannot pass to another process in between.
func verified(pid int, ours func(args []string) bool) *process {
	if pid == 0 {
		return nil
	}
	p, err := openProcess(pid)
	if err != nil {
		return nil
	}
	if !ours(arguments(pid)) {
		p.close()
		return nil
	}
	return p
}
