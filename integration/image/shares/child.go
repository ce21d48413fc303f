package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// as does something as another user; it returns the system's error alone.
func as(user uint32, verb string, args ...string) error {
	cmd := exec.Command("/proc/self/exe", append([]string{verb}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := cmd.Output()
	if err == nil {
		return nil
	}
	if n, nerr := strconv.Atoi(string(out[:max(len(out)-1, 0)])); nerr == nil {
		return syscall.Errno(n)
	}
	return fmt.Errorf("%s: %w", out, err)
}

// child is what as starts. Its error is the number of the system's.
func child(verb string, args []string) error {
	var err error
	switch verb {
	case "read":
		_, err = os.ReadFile(args[0])
	case "append":
		var f *os.File
		if f, err = os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND, 0); err == nil {
			_, err = f.WriteString("x")
		}
	case "wait":
		_, err = io.Copy(io.Discard, os.Stdin)
	case "capabilities": // the effective ones are those of the file
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err = unix.Capget(&header, &data[0]); err == nil && data[0].Effective != 1<<unix.CAP_NET_BIND_SERVICE {
			return fmt.Errorf("effective capabilities %#x", data[0].Effective)
		}
	default:
		return errors.New("no such verb")
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		return fmt.Errorf("%d", int(number))
	}
	return err
}
