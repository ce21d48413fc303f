package inside

import (
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCall: the calls are the process's own, and it goes on after them.
func TestCall(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Attach(cmd.Process.Pid)
	if errors.Is(err, unix.EPERM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := p.Call(unix.SYS_GETPID); err != nil || int(pid) != cmd.Process.Pid {
		t.Errorf("it is %d, %v, not %d", pid, err, cmd.Process.Pid)
	}
	if _, err := p.Call(unix.SYS_OPENAT, unix.AT_FDCWD, "/no/such", unix.O_RDONLY); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a missing file: %v", err)
	}
	if fd, err := p.Call(unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_RDONLY); err != nil || fd < 3 {
		t.Errorf("the root is %d, %v", fd, err)
	}
	if err := p.Detach(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the process then: %v", err)
	}
}
