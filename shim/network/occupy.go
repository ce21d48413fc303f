package network

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
)

// Occupy starts a process in the network namespace at path that does nothing,
// so that /proc/PID/ns/net is the namespace. It ends at the call of end, and
// when this process ends, however that comes about: it reads a pipe of ours to
// its end.
func (l Linker) Occupy(path string) (pid int, end func(), err error) {
	if len(l.Occupant) == 0 {
		return 0, nil, errors.New("no program is known that occupies a network namespace")
	}
	cmd := &exec.Cmd{
		Path:        l.Occupant[0],
		Args:        append(slices.Clone(l.Occupant[1:]), path), // for who wonders what it is
		Dir:         "/",                                        // not the bundle, which has to go
		Env:         []string{},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if _, err := cmd.StdinPipe(); err != nil { // Wait closes it
		return 0, nil, err
	}
	err = Within(path, cmd.Start)
	if cmd.Process == nil {
		return 0, nil, fmt.Errorf("start a process in %s: %w", path, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // however it ends, it has done its work
	}()
	end = func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	}
	if err != nil {
		end()
		return 0, nil, err
	}
	return cmd.Process.Pid, end, nil
}
