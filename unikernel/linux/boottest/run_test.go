package boottest

import (
	"context"
	"io"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// result is what came of one process.
type result struct {
	status      uint32
	out, errOut string
}

// processTimeout bounds one process that should end.
const processTimeout = 60 * time.Second

// await waits for a process' exit and for its output.
func (m *machine) await(p unikernel.Process) uint32 {
	m.t.Helper()
	for _, c := range []<-chan struct{}{p.Exited(), p.Drained()} {
		select {
		case <-c:
		case <-time.After(processTimeout):
			m.t.Fatal("the process did not exit, or its output did not end")
		}
	}
	x, err := p.Exit()
	if err != nil {
		m.t.Fatalf("exit: %v", err)
	}
	return x.Status
}

func (m *machine) context() context.Context {
	ctx, cancel := context.WithTimeout(m.t.Context(), processTimeout)
	m.t.Cleanup(cancel)
	return ctx
}

// run starts the container's process.
func (m *machine) run(a unikernel.App, io unikernel.Stdio) unikernel.Process {
	m.t.Helper()
	p, err := m.session.Run(m.context(), a, io)
	if err != nil {
		m.t.Fatalf("run %q: %v\n%s", a.Spec.Process.Args, err, m.console)
	}
	return p
}

// process is the base of an exec: the environment and nothing of the rest.
func process(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}}
}

// exec runs a further process to its end.
func (m *machine) exec(p *specs.Process, stdin io.Reader) result {
	m.t.Helper()
	var out, errOut lockedBuffer
	proc, err := m.session.Exec(m.context(), "x", p, unikernel.Stdio{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	if err != nil {
		m.t.Fatalf("exec %q: %v", p.Args, err)
	}
	return result{m.await(proc), out.String(), errOut.String()}
}

func (m *machine) sh(script string) result {
	m.t.Helper()
	return m.exec(process("sh", "-c", script), nil)
}

// end kills the container's process and has the machine end.
func (m *machine) end(p unikernel.Process) {
	m.t.Helper()
	if err := p.Signal(m.context(), syscall.SIGKILL, true); err != nil {
		m.t.Fatalf("kill: %v", err)
	}
	if got := m.await(p); got != 137 {
		m.t.Errorf("exit status after SIGKILL is %d, want 137", got)
	}
	if err := m.session.Shutdown(m.context()); err != nil {
		m.t.Fatalf("shutdown: %v", err)
	}
	m.waitEnd()
}

func TestHello(t *testing.T) {
	needQEMU(t)
	start := time.Now()
	a := app("sh", "-c", "echo out; echo err >&2; exit 7")
	m := boot(t, "microvm", image(t), a)
	t.Logf("attached after %v", time.Since(start))
	var out, errOut lockedBuffer
	t0 := time.Now()
	p := m.run(a, unikernel.Stdio{Stdout: &out, Stderr: &errOut})
	t.Logf("running after %v", time.Since(t0))
	if got := m.await(p); got != 7 {
		t.Errorf("exit status is %d, want 7", got)
	}
	t.Logf("exited after %v", time.Since(t0))
	if out.String() != "out\n" || errOut.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
	}
	t1 := time.Now()
	if err := m.session.Shutdown(m.context()); err != nil {
		t.Fatal(err)
	}
	m.waitEnd()
	t.Logf("machine ended after %v", time.Since(t1))
}
