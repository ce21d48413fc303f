package frontend

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/task"

	"github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	envTTRPCAddress = "TTRPC_ADDRESS"
	// addressFile is the file of a bundle in which its shim's address is found
	// again after a restart of containerd.
	addressFile = "address"
	// maxOOMScore is the kernel's largest oom_score_adj (proc(5)).
	maxOOMScore = 1000
)

// start prints where the shim is that serves the container's group,
// after starting it if there is none.
func (r Runtime) start(f flags, stdin io.Reader, stdout io.Writer) error {
	p, err := readParams(f, stdin)
	if err != nil {
		return err
	}
	if err := task.RecordOptions(f.bundle, p.options); err != nil {
		return err
	}
	group, err := groupOf(f.bundle, f.id)
	if err != nil {
		return err
	}
	path := socketPath(p.socketDir, p.address, f.namespace, group)
	address := unixScheme + path
	if !served(address) {
		if err := r.spawn(f, p, group, path); err != nil {
			return fmt.Errorf("start shim: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.bundle, addressFile), []byte(address), 0o644); err != nil {
		return err
	}
	answer, err := p.answer(address)
	if err != nil {
		return err
	}
	_, err = stdout.Write(answer)
	return err
}

// answer is what start prints: the newest form that whoever asked takes. A
// containerd that sends BootstrapParams takes a BootstrapResult, and then speaks
// version 3 of the task API; to others, of which 1.6 takes nothing else and none
// says which it is, the plain address means version 2.
func (p params) answer(address string) ([]byte, error) {
	if !p.bootstrap {
		return []byte(address), nil
	}
	return proto.Marshal(&bootstrap.BootstrapResult{Version: taskVersion, Address: address, Protocol: "ttrpc"})
}

// taskVersion is the newest version of containerd's task API that is served.
const taskVersion = 3

// spawn starts the program that serves as the shim, in a session of its own, and
// returns when it or another serves the socket at path. The shim makes the socket
// itself: whenever we are killed, what is there has an owner.
func (r Runtime) spawn(f flags, p params, group, path string) error {
	self, program, err := r.programs()
	if err != nil {
		return err
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer tell.Close()
	args := []string{"-namespace", f.namespace, "-id", f.id, "-group", group, "-address", p.address, "-publish-binary", p.binary,
		"-socket", path, "-ready"}
	if p.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(program, args...)
	cmd.Args[0] = self // by this name a shim is looked for
	cmd.Dir = f.bundle
	cmd.Env = append(os.Environ(), envTTRPCAddress+"="+p.ttrpcAddress)
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	protect(cmd.Process.Pid)
	if err := confine(cmd.Process.Pid, p.options); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: that is no news
		return err
	}
	_ = tell.Close()
	if err := awaitReady(ready, path); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	return cmd.Process.Release()
}

// readyTimeout bounds waiting for a shim to make its socket.
const readyTimeout = 10 * time.Second

// awaitReady returns when a shim says that it serves, or says no more and another
// does.
func awaitReady(ready *os.File, path string) error {
	_ = ready.SetReadDeadline(time.Now().Add(readyTimeout))
	said, err := io.ReadAll(ready)
	switch {
	case string(said) == readyWord, served(path):
		return nil
	case err != nil:
		return fmt.Errorf("it does not make its socket: %w", err)
	default:
		return fmt.Errorf("it ended: %s", said)
	}
}

// confine moves the shim into the cgroup that the client wants it in.
func confine(pid int, options *anypb.Any) error {
	path, err := task.ShimCgroup(options)
	if err != nil || path == "" {
		return err
	}
	return cgroup.Join(path, pid)
}

// protect makes the kernel prefer the shim to containerd, but hardly to
// anything else, when memory runs out: one above containerd's own score. Not
// being allowed to (CAP_SYS_RESOURCE) costs nothing else.
func protect(pid int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(score+1, maxOOMScore))), 0)
}
