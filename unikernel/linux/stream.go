package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"
)

// creditStep is how many bytes are delivered before credit for them is given
// back: seldom enough to be cheap, often enough that the guest never waits
// with an idle reader.
const creditStep = wire.OutWindow / 4

// outStream takes an output stream of a process to its writer. It holds no more
// than the guest may send.
type outStream struct {
	p      *proc
	stream wire.Stream
	w      io.Writer // nil discards
	most   int       // bytes that it may hold

	mu      sync.Mutex
	cond    sync.Cond
	pending []byte // received and not yet taken by run
	held    int    // received and not yet written, in bytes
	eof     bool
	ended   chan struct{} // closed with eof
	written chan struct{} // closed when all is written after that
}

func newOutStream(p *proc, stream wire.Stream, w io.Writer) *outStream {
	o := &outStream{p: p, stream: stream, w: w, most: wire.OutWindow + wire.ExitBurst,
		ended: make(chan struct{}), written: make(chan struct{})}
	o.cond.L = &o.mu
	return o
}

// push takes data from the guest.
func (o *outStream) push(data []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.eof {
		return fmt.Errorf("it sends data after the end of stream %d of process %d", o.stream, o.p.id)
	}
	if o.held+len(data) > o.most {
		return fmt.Errorf("it sends more of stream %d of process %d than it has credit for", o.stream, o.p.id)
	}
	o.held += len(data)
	o.pending = append(o.pending, data...)
	o.cond.Signal()
	return nil
}

// end takes the stream's end, once.
func (o *outStream) end() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.eof {
		return false
	}
	o.eof = true
	close(o.ended)
	o.cond.Signal()
	return true
}

// run writes until all is written. A writer that fails gets nothing more, and
// the process is not held up.
func (o *outStream) run() {
	defer close(o.written)
	var spare []byte
	given := 0
	for {
		data := o.take(spare)
		if len(data) == 0 {
			return
		}
		if o.w != nil {
			if _, err := o.w.Write(data); err != nil {
				o.w = nil
			}
		}
		o.mu.Lock()
		o.held -= len(data)
		o.mu.Unlock()
		if given += len(data); given >= creditStep {
			o.p.s.send(context.Background(), o.ended, outFrame{
				b: wire.AppendFrame(nil, wire.KindCredit, o.p.id, wire.EncodeCredit(o.stream, given))})
			given = 0
		}
		spare = data
	}
}

// take waits for data and returns it; nothing at the end of the stream. The
// buffer that run is done with takes what comes next.
func (o *outStream) take(spare []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.pending) == 0 && !o.eof {
		o.cond.Wait()
	}
	data := o.pending
	o.pending = spare[:0]
	return data
}

// inStream takes a process' standard input to the guest.
type inStream struct {
	p *proc
	r io.Reader

	mu      sync.Mutex // guards credit and closing
	cond    sync.Cond
	credit  int
	closing bool // CloseStdin was called

	smu  sync.Mutex // held from the end of a Read until its data is queued
	done bool       // EOF is queued
}

func newInStream(p *proc, r io.Reader) *inStream {
	in := &inStream{p: p, r: r, credit: wire.InWindow}
	in.cond.L = &in.mu
	return in
}

func (in *inStream) give(n int) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.credit+n > wire.InWindow {
		return fmt.Errorf("it gives more credit for the input of process %d than it was sent", in.p.id)
	}
	in.credit += n
	in.cond.Signal()
	return nil
}

// deadliner is a reader whose waiting Read can be woken and which can then be
// asked for what is there, such as an *os.File of a fifo.
type deadliner interface {
	SetReadDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
}

// run reads until end-of-file, and only while the guest has room. A Read that
// waits when the process exits ends when its reader is closed, by whoever owns
// it.
func (in *inStream) run() {
	go in.wakeAtExit()
	buf := make([]byte, wire.MaxData)
	read := in.r.Read
	for {
		n := in.allowance()
		if n == 0 {
			return
		}
		m, err := read(buf[:min(n, len(buf))])
		if m > 0 && !in.queue(wire.KindData, buf[:m]) {
			return
		}
		if err == nil {
			continue
		}
		if d, ok := in.r.(deadliner); ok && errors.Is(err, os.ErrDeadlineExceeded) {
			d.SetReadDeadline(time.Time{})
			read = func(b []byte) (int, error) { return readReady(d, b) }
			continue
		}
		if errors.Is(err, errBroken) {
			return // what there was is not all
		}
		in.queue(wire.KindEOF, nil)
		return
	}
}

// wakeAtExit ends an allowance that waits when the process exits.
func (in *inStream) wakeAtExit() {
	<-in.p.exited
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cond.Broadcast()
}

// readReady reads what can be read without waiting; nothing is io.EOF.
func readReady(d deadliner, b []byte) (n int, err error) {
	rc, err := d.SyscallConn()
	if err != nil {
		return 0, err
	}
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		n, rerr = syscall.Read(int(fd), b)
		return true
	})
	if err != nil || rerr != nil || n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

// allowance waits for credit. It returns 0 when the process exited.
func (in *inStream) allowance() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.credit <= 0 && !in.p.finished() {
		in.cond.Wait()
	}
	if in.p.finished() {
		return 0
	}
	return in.credit
}

// queue sends data or the end, unless the end was sent.
func (in *inStream) queue(kind wire.Kind, data []byte) bool {
	in.smu.Lock()
	defer in.smu.Unlock()
	if in.done {
		return false
	}
	in.done = kind == wire.KindEOF
	in.mu.Lock()
	in.credit -= len(data)
	in.mu.Unlock()
	f := outFrame{b: wire.AppendFrame(nil, kind, in.p.id, []byte{byte(wire.Stdin)}, data)}
	return in.p.s.send(context.Background(), in.p.exited, f) == nil
}

// close ends the input after what its reader gave so far. A reader that can be
// woken is first asked for what is there; of another one, what a Read returns
// from now on is dropped.
func (in *inStream) close(ctx context.Context) error {
	in.mu.Lock()
	again := in.closing
	in.closing = true
	in.mu.Unlock()
	if again {
		return nil
	}
	if d, ok := in.r.(deadliner); ok && d.SetReadDeadline(time.Unix(1, 0)) == nil {
		return nil
	}
	in.smu.Lock()
	defer in.smu.Unlock()
	if in.done {
		return nil
	}
	in.done = true
	return in.p.s.send(ctx, in.p.exited, outFrame{b: wire.AppendFrame(nil, wire.KindEOF, in.p.id, []byte{byte(wire.Stdin)})})
}
