package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// startTimeout bounds the wait for a containerd that was started.
const startTimeout = 60 * time.Second

// Options say which containerd to run and where.
type Options struct {
	// Version is the name of a directory of Programs, such as "1.7.34".
	Version string
	// Programs is the directory integration/peers.sh filled.
	Programs string
	// Dir is an existing directory for root, state, sockets and log. Its path
	// is short: a Unix socket's path holds 107 bytes.
	Dir string
	// Namespace is the containerd namespace of every call.
	Namespace string
	// Path are directories searched before the peer's own for shims and tools.
	Path []string
	// Wrap is a command that replaces itself by the command that follows it,
	// such as unshare: containerd runs through it.
	Wrap []string
	// Marks are further texts by which Processes knows this peer's processes.
	Marks []string
	// Env is added to containerd's environment, which its shims inherit.
	Env []string
	// CRI is for a containerd that serves Kubernetes; nil for one that does not.
	CRI *CRI
}

// Peer is a running private containerd.
type Peer struct {
	Options
	cmd  *exec.Cmd
	done <-chan struct{}
}

// Start writes the configuration, starts containerd and returns when it
// answers.
func Start(ctx context.Context, o Options) (*Peer, error) {
	p := &Peer{Options: o}
	if err := o.write(); err != nil {
		return nil, fmt.Errorf("start containerd %s: %w", o.Version, err)
	}
	if err := p.start(ctx); err != nil {
		return nil, fmt.Errorf("start containerd %s: %w", o.Version, err)
	}
	return p, nil
}

// Address is the path of containerd's socket.
func (p *Peer) Address() string { return p.file("ctd.sock") }

// State is containerd's state directory; bundles are below it.
func (p *Peer) State() string { return p.file("state") }

// Log is the path of the file that holds containerd's and its shims' messages.
func (p *Peer) Log() string { return p.file("containerd.log") }

// Bundle is the directory containerd made for the task of a container.
func (p *Peer) Bundle(id string) string {
	return filepath.Join(p.State(), "io.containerd.runtime.v2.task", p.Namespace, id)
}

// Pid is the process id of containerd.
func (p *Peer) Pid() int { return p.cmd.Process.Pid }

func (p *Peer) file(name string) string { return filepath.Join(p.Dir, name) }

func (p *Peer) program(name string) string {
	return filepath.Join(p.Programs, p.Version, name)
}

func (p *Peer) environ() []string {
	path := strings.Join(append(append([]string{}, p.Path...), filepath.Join(p.Programs, p.Version), os.Getenv("PATH")), ":")
	quiet := "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1" // ctr prints them on stderr
	return append(append(os.Environ(), "PATH="+path, quiet), p.Env...)
}

func (p *Peer) start(ctx context.Context) (err error) {
	command := append(slices.Clone(p.Wrap), p.program("containerd"), "--config", p.file("config.toml"))
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env = p.environ()
	if p.done, err = Daemon(p.cmd, p.Log()); err != nil {
		return err
	}
	return p.ready(ctx)
}

// ready waits until containerd answers, ends, or startTimeout has passed.
func (p *Peer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		r := p.Ctr(ctx, nil, "containers", "ls", "-q")
		if r.Code == 0 {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("ended: %v; its log is %s", p.cmd.ProcessState, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("does not answer: %s; its log is %s", r.Stderr, p.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends containerd alone with a signal and waits for it; its shims go on.
func (p *Peer) Kill(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill containerd: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(startTimeout):
		return fmt.Errorf("kill containerd: still there after %v", sig)
	}
}

// Restart ends containerd with sig and starts it again on the same directories.
func (p *Peer) Restart(ctx context.Context, sig syscall.Signal) error {
	if err := p.Kill(sig); err != nil {
		return err
	}
	return p.start(ctx)
}

// Result is what one call of ctr printed and returned.
type Result struct {
	Stdout, Stderr string
	// Code is the exit status; 128 plus the signal's number when ctr was
	// killed, -1 when it could not be started.
	Code int
}

// Command is a call of ctr that is not started.
func (p *Peer) Command(ctx context.Context, args ...string) *exec.Cmd {
	all := append([]string{"--address", p.Address(), "--namespace", p.Namespace}, args...)
	cmd := exec.CommandContext(ctx, p.program("ctr"), all...)
	cmd.Env = p.environ()
	// Grandchildren may hold the pipes: their absence is not waited for long.
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Ctr calls ctr to its end with stdin, nil for an empty one.
func (p *Peer) Ctr(ctx context.Context, stdin io.Reader, args ...string) Result {
	var out, errs bytes.Buffer
	cmd := p.Command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	r := Result{Stdout: out.String(), Stderr: errs.String(), Code: Code(cmd, err)}
	if r.Code < 0 {
		r.Stderr += err.Error()
	}
	return r
}

// Code is the exit status of a command that ran, as in Result.
func Code(cmd *exec.Cmd, err error) int {
	if cmd.ProcessState == nil {
		return -1
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	return cmd.ProcessState.ExitCode()
}
