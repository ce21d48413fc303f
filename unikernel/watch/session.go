package watch

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Guest is what differs between the guests that are watched.
type Guest struct {
	// Refuse returns the error about what the guest does not have: "no
	// terminals".
	Refuse func(what string) error
	// Output returns what takes all that the console says and passes on what is
	// the program's. Without it that is everything.
	Output func(io.Writer) io.WriteCloser
	// Exit returns the program's exit status. A machine whose end does not tell
	// is unikernel.ErrUnavailable.
	Exit func(unikernel.End, unikernel.Watched) (uint32, error)
	// Load is how long after the console's first words a guest takes notice of
	// the power button, and Silence how long one may take that says nothing.
	// SIGTERM waits for that; with both zero the button is pressed at once.
	Load, Silence time.Duration
}

// session is a machine that runs its program by itself.
type session struct {
	g      Guest
	m      unikernel.Watched
	ctx    context.Context
	cancel context.CancelFunc
	run    sync.Once
	wg     sync.WaitGroup
}

// New returns the session of a machine that runs.
func New(g Guest, m unikernel.Watched) unikernel.Session {
	s := &session{g: g, m: m}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// OnOOM implements unikernel.Session. Nobody tells.
func (s *session) OnOOM(func()) {}

// Run implements unikernel.Session. The guest starts the program by itself, and
// says nothing of it.
func (s *session) Run(_ context.Context, app unikernel.App, stdio unikernel.Stdio) (unikernel.Process, error) {
	var p *process
	s.run.Do(func() {
		p = &process{g: s.g, m: s.m, stop: stopSignal(app.Spec), alive: make(chan struct{}), exited: make(chan struct{}), drained: make(chan struct{})}
		go p.copy(stdio.Stdout)
		s.wg.Go(func() { p.wait(s.ctx) })
	})
	if p == nil {
		return nil, fmt.Errorf("%w: the program has been started already", unikernel.ErrInvalid)
	}
	return p, nil
}

// stopAnnotation is where a specification made from an image has the image's
// StopSignal (image-spec, conversion.md).
const stopAnnotation = "org.opencontainers.image.stopSignal"

// stopSignal is the one that the specification names, as "SIGWINCH", "WINCH" or
// "28"; 0 without.
func stopSignal(s *specs.Spec) syscall.Signal {
	if s == nil {
		return 0
	}
	name := strings.ToUpper(s.Annotations[stopAnnotation])
	if n, err := strconv.Atoi(name); err == nil {
		return syscall.Signal(n)
	}
	return unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
}

// Exec implements unikernel.Session.
func (s *session) Exec(context.Context, string, *specs.Process, unikernel.Stdio) (unikernel.Process, error) {
	return nil, s.g.Refuse("one process and no more")
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
	g Guest
	m unikernel.Watched
	// stop is the signal by which the image wants to be stopped, or 0.
	stop syscall.Signal
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
	var f io.WriteCloser = &tolerant{out: out}
	if p.g.Output != nil {
		f = p.g.Output(out)
	}
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

// tolerant passes everything on until nobody reads any more.
type tolerant struct {
	out io.Writer
	err error
}

// Write implements io.Writer. It keeps an error and discards what follows, so
// that the console is read on.
func (t *tolerant) Write(p []byte) (int, error) {
	if t.err == nil && len(p) > 0 {
		_, t.err = t.out.Write(p)
	}
	return len(p), nil
}

// Close implements io.Closer.
func (t *tolerant) Close() error { return t.err }

// wait waits for the machine's end and finds out how the program exited.
func (p *process) wait(ctx context.Context) {
	defer close(p.exited)
	end, err := p.m.Ended(ctx)
	if err != nil {
		p.err = fmt.Errorf("%w: %w", unikernel.ErrUnavailable, err)
		return
	}
	p.exit.Status, p.err = p.g.Exit(end, p.m)
	if p.exit.At = end.At; end.At.IsZero() {
		p.exit.At = time.Now()
	}
}

// Signal implements unikernel.Process. The guest has one way to end, which every
// signal takes that ends a process by default, and the one by which the image
// wants to be stopped. A client forwards SIGWINCH whenever its window changes,
// so it is no reason to end unless the image says so.
func (p *process) Signal(ctx context.Context, sig syscall.Signal, _ bool) error {
	select {
	case <-p.exited:
		return fmt.Errorf("signal: the process has exited: %w", unikernel.ErrNotFound)
	default:
	}
	switch {
	case sig < 0 || sig > unikernel.MaxSignal:
		return fmt.Errorf("signal %d: %w: no such signal", sig, unikernel.ErrInvalid)
	case sig == syscall.SIGKILL:
		return p.g.Refuse("no way to deliver SIGKILL, which is the end of its machine")
	case unikernel.ActionOf(sig) == unikernel.SignalStops:
		return p.g.Refuse(fmt.Sprintf("no way to stop and go on by signal %d: pause and resume the container", sig))
	case sig == 0, unikernel.ActionOf(sig) == unikernel.SignalIsIgnored && sig != p.stop:
		return nil
	}
	if err := p.listens(ctx); err != nil {
		return err
	}
	return p.m.PowerButton(ctx)
}

// listens returns when a signal is likely to reach the program.
func (p *process) listens(ctx context.Context) error {
	if p.g.Load == 0 && p.g.Silence == 0 {
		return nil
	}
	boot := time.NewTimer(p.g.Silence)
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
	load := time.NewTimer(time.Until(p.since.Add(p.g.Load)))
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
func (p *process) Resize(context.Context, uint16, uint16) error { return p.g.Refuse("no terminals") }

// CloseStdin implements unikernel.Process: standard input is always at its end.
func (p *process) CloseStdin(context.Context) error { return nil }

// Exited implements unikernel.Process.
func (p *process) Exited() <-chan struct{} { return p.exited }

// Exit implements unikernel.Process.
func (p *process) Exit() (unikernel.Exit, error) {
	select {
	case <-p.exited:
		return p.exit, p.err
	default:
		return unikernel.Exit{}, fmt.Errorf("%w: the program has not exited", unikernel.ErrInvalid)
	}
}

// Drained implements unikernel.Process.
func (p *process) Drained() <-chan struct{} { return p.drained }
