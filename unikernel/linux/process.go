package linux

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

// proc is a process in the guest, or a connection to one (package wire). Its goroutines are one for each stream that
// the caller carries; they end with the stream.
type proc struct {
	s        *session
	id       uint32
	terminal bool
	// isConnection says that it is none, see Forward.
	isConnection bool
	in           *inStream // nil without stdin
	outs         map[wire.Stream]*outStream

	exited, drained chan struct{}

	mu   sync.Mutex // guards what follows
	exit *unikernel.Exit
	err  error // session ended before exit
}

var _ unikernel.Process = (*proc)(nil)

func newProc(s *session, id uint32, io unikernel.Stdio, terminal bool) *proc {
	p := &proc{s: s, id: id, terminal: terminal, outs: map[wire.Stream]*outStream{},
		exited: make(chan struct{}), drained: make(chan struct{})}
	if io.Stdin != nil {
		p.in = newInStream(p, io.Stdin)
	}
	if io.Stdout != nil || terminal {
		p.outs[wire.Stdout] = newOutStream(p, wire.Stdout, io.Stdout)
	}
	if io.Stderr != nil && !terminal {
		p.outs[wire.Stderr] = newOutStream(p, wire.Stderr, io.Stderr)
	}
	return p
}

// run starts to carry the output of a process that has started.
func (p *proc) run() {
	var wg sync.WaitGroup
	for _, o := range p.outs {
		wg.Go(o.run)
	}
	go func() {
		wg.Wait()
		<-p.exited
		p.s.remove(p)
		close(p.drained)
	}()
}

// abandon sees to a process whose caller gave up waiting for its start.
func (p *proc) abandon(r wire.Reply) {
	if replyError(r) != nil {
		p.s.remove(p)
		return
	}
	for _, o := range p.outs {
		o.w = nil
	}
	p.run()
	p.Signal(context.Background(), syscall.SIGKILL, false)
}

// handle takes one frame about the process, and never waits.
func (p *proc) handle(f wire.Frame) error {
	if f.Kind == wire.KindExit {
		x, err := wire.DecodeExit(f.Payload)
		if err != nil {
			return err
		}
		return p.setExit(unikernel.Exit{Status: x.Status, At: time.Now()})
	}
	if f.Kind == wire.KindCredit {
		stream, n, err := wire.DecodeCredit(f.Payload)
		if err != nil {
			return err
		}
		if stream != wire.Stdin || p.in == nil {
			return fmt.Errorf("it gives credit for stream %d of process %d", stream, p.id)
		}
		return p.in.give(n)
	}
	stream, data, err := wire.DecodeStream(f.Payload)
	if err != nil {
		return err
	}
	o := p.outs[stream]
	if o == nil {
		return fmt.Errorf("it sends stream %d of process %d, which nobody asked for", stream, p.id)
	}
	if f.Kind == wire.KindEOF {
		if !o.end() {
			return fmt.Errorf("it ends stream %d of process %d twice", stream, p.id)
		}
		return nil
	}
	if len(data) == 0 {
		return fmt.Errorf("it sends nothing for stream %d of process %d", stream, p.id)
	}
	return o.push(data)
}

func (p *proc) setExit(x unikernel.Exit) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit != nil {
		return fmt.Errorf("it reports the exit of process %d twice", p.id)
	}
	if p.err == nil {
		p.exit = &x
		close(p.exited)
	}
	return nil
}

// lose tells that the session ended; what was received is still delivered.
func (p *proc) lose(err error) {
	p.mu.Lock()
	if p.exit == nil && p.err == nil {
		p.err = err
		close(p.exited)
	}
	p.mu.Unlock()
	for _, o := range p.outs {
		o.end()
	}
}

// errFinished is what runc says of a process that is gone; containerd's
// clients know the words.
var errFinished error = &guestError{"process already finished", unikernel.ErrNotFound}

func (p *proc) finished() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Signal implements unikernel.Process.
func (p *proc) Signal(ctx context.Context, sig syscall.Signal, all bool) error {
	if p.finished() {
		return errFinished
	}
	return p.s.call(ctx, wire.KindSignal, wire.Signal{Process: p.id, Signal: uint32(sig), All: all}.Encode())
}

// Resize implements unikernel.Process.
func (p *proc) Resize(ctx context.Context, width, height uint16) error {
	if p.finished() {
		return errFinished
	}
	return p.s.call(ctx, wire.KindResize, wire.Resize{Process: p.id, Width: width, Height: height}.Encode())
}

// CloseStdin implements unikernel.Process. A terminal stays open, as with runc.
func (p *proc) CloseStdin(ctx context.Context) error {
	if p.in == nil || p.finished() {
		return nil
	}
	return p.in.close(ctx)
}

// Exited implements unikernel.Process.
func (p *proc) Exited() <-chan struct{} { return p.exited }

// Exit implements unikernel.Process.
func (p *proc) Exit() (unikernel.Exit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.exit != nil:
		return *p.exit, nil
	case p.err != nil:
		return unikernel.Exit{}, p.err
	default:
		return unikernel.Exit{}, fmt.Errorf("%w: process %d has not exited", unikernel.ErrInvalid, p.id)
	}
}

// Drained implements unikernel.Process.
func (p *proc) Drained() <-chan struct{} { return p.drained }
