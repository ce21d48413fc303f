package peer

import (
	"os"
	"os/exec"
	"syscall"
)

// Daemon starts a command in a session of its own: a signal to the tests' terminal is
// not for it. What it says is added to the file log. The channel is closed when it has
// ended; its ProcessState says how.
func Daemon(cmd *exec.Cmd, log string) (<-chan struct{}, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // who waits for it reads cmd.ProcessState, or its log
		close(done)
	}()
	return done, nil
}
