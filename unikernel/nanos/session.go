package nanos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// session is a machine that runs its program by itself.
type session struct {
	m      unikernel.Watched
	ctx    context.Context
	cancel context.CancelFunc
	run    sync.Once
	wg     sync.WaitGroup
}

// Watch implements unikernel.Watcher.
func (g *Guest) Watch(m unikernel.Watched) unikernel.Session {
	s := &session{m: m}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Run implements unikernel.Session. The kernel starts the program by itself,
// and says nothing of it.
func (s *session) Run(_ context.Context, _ unikernel.App, stdio unikernel.Stdio) (unikernel.Process, error) {
	var p *process
	s.run.Do(func() {
		p = &process{m: s.m, alive: make(chan struct{}), exited: make(chan struct{}), drained: make(chan struct{})}
		go p.copy(stdio.Stdout)
		s.wg.Go(func() { p.wait(s.ctx) })
	})
	if p == nil {
		return nil, errors.New("the program has been started already")
	}
	return p, nil
}

// Exec implements unikernel.Session.
func (s *session) Exec(context.Context, string, *specs.Process, unikernel.Stdio) (unikernel.Process, error) {
	return nil, refuse("one process and no more")
}

// Shutdown implements unikernel.Session: the machine has powered off already.
func (s *session) Shutdown(context.Context) error { return nil }

// Close implements unikernel.Session.
func (s *session) Close() error {
	s.cancel()
	err := s.m.Console().Close()
	s.wg.Wait() // not for copy: it ends at the latest when the output is closed
	return err
}

// process is the one program.
type process struct {
	m unikernel.Watched
	// alive is closed when the console's first words are read, since then.
	alive   chan struct{}
	since   time.Time
	exited  chan struct{}
	drained chan struct{}
	// exit and err are set before exited is closed.
	exit unikernel.Exit
	err  error
}

// copy passes the program's output on until the console ends.
func (p *process) copy(out io.Writer) {
	defer close(p.drained)
	if out == nil {
		out = io.Discard
	}
	f := filter{out: out}
	buf := make([]byte, 32<<10)
	for first := true; ; first = false {
		n, err := p.m.Console().Read(buf)
		if n > 0 && first {
			p.since = time.Now()
			close(p.alive)
		}
		_, _ = f.Write(buf[:n])
		if err != nil { // the machine ended, however
			break
		}
	}
	_ = f.Close() // nobody reads the output any more
}

// wait waits for the machine's end and finds out how the program exited.
func (p *process) wait(ctx context.Context) {
	defer close(p.exited)
	end, err := p.m.Ended(ctx)
	if err != nil {
		p.err = fmt.Errorf("%w: %w", unikernel.ErrUnavailable, err)
		return
	}
	record, err := p.m.Record()
	if err != nil {
		p.err = fmt.Errorf("%w: exit record: %w", unikernel.ErrUnavailable, err)
		return
	}
	p.exit.Status, p.err = exitStatus(end, record)
	if p.exit.At = end.At; end.At.IsZero() {
		p.exit.At = time.Now()
	}
}

// Signal implements unikernel.Process.
func (p *process) Signal(ctx context.Context, sig syscall.Signal, _ bool) error {
	select {
	case <-p.exited:
		return fmt.Errorf("signal: the process has exited: %w", unikernel.ErrNotFound)
	default:
	}
	if sig != syscall.SIGTERM {
		return refuse(fmt.Sprintf("no way to deliver signal %d, only SIGTERM (by the power button) and SIGKILL (by the machine's end)", sig))
	}
	if err := p.listens(ctx); err != nil {
		return err
	}
	return p.m.PowerButton(ctx)
}

// The kernel does not notice the button before it has set up ACPI, and signals
// no program before it has loaded one. The last it says before that is about
// the network; a program is loaded well within loadTime from then on. A kernel
// that says nothing has bootTime.
const (
	loadTime = 500 * time.Millisecond
	bootTime = 15 * time.Second
)

// listens returns when a signal is likely to reach the program.
func (p *process) listens(ctx context.Context) error {
	boot := time.NewTimer(bootTime)
	defer boot.Stop()
	select {
	case <-p.alive:
	case <-boot.C:
		return nil
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	load := time.NewTimer(time.Until(p.since.Add(loadTime)))
	defer load.Stop()
	select {
	case <-load.C:
	case <-p.exited:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Resize implements unikernel.Process.
func (p *process) Resize(context.Context, uint16, uint16) error { return refuse("no terminals") }

// CloseStdin implements unikernel.Process: standard input is always at its end.
func (p *process) CloseStdin(context.Context) error { return nil }

// Exited implements unikernel.Process.
func (p *process) Exited() <-chan struct{} { return p.exited }

// Exit implements unikernel.Process.
func (p *process) Exit() (unikernel.Exit, error) { return p.exit, p.err }

// Drained implements unikernel.Process.
func (p *process) Drained() <-chan struct{} { return p.drained }
