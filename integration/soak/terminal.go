package soak

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/integration/peer"
)

// quiet is how long a terminal shows nothing more when its command has ended
// before that is all: what was written passes through a queue of the kernel.
const quiet = 300 * time.Millisecond

// inTerminal runs a command with standard input and output in a new
// pseudo-terminal and returns what that shows as its output.
func inTerminal(cmd *exec.Cmd) (peer.Result, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return peer.Result{}, err
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return peer.Result{}, err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return peer.Result{}, err
	}
	// It stays open here, and is not the command's controlling terminal: the last
	// close, and the end of a session's leader, drop what was not read yet.
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return peer.Result{}, err
	}
	defer slave.Close()
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return peer.Result{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var shown bytes.Buffer
	var result error
	running := true
	for b := make([]byte, 32<<10); ; {
		ready := []unix.PollFd{{Fd: int32(master.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(quiet.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return peer.Result{}, err
		}
		if n > 0 {
			n, err := unix.Read(int(master.Fd()), b)
			if err != nil && err != unix.EAGAIN {
				return peer.Result{}, err
			}
			shown.Write(b[:max(n, 0)])
			continue
		}
		if !running {
			return peer.Result{Stdout: shown.String(), Stderr: errs.String(), Code: peer.Code(cmd, result)}, nil
		}
		select {
		case result = <-ended:
			running = false // and once more
		default:
		}
	}
}
