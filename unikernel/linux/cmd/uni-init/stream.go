package main

import (
	"os"
	"sync"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// output carries one output stream of a process to the host. Without credit it
// does not read, and the process' write waits as it does on any full pipe.
type output struct {
	s      *server
	proc   uint32
	stream wire.Stream
	f      *os.File // read end of a pipe, or the master of a terminal
	shared bool     // f is the terminal's, which input uses too

	mu     sync.Mutex
	cond   sync.Cond // signalled when one of these changes
	credit int       // bytes; below 0 after a flush
	exited bool      // the process is dead: send what is there, credit or not
	last   bool      // and then end: nobody is left to write
	expire bool      // end now

	flushed chan struct{} // closed when what the process left is sent
	ended   chan struct{} // closed when EOF is sent
}

func newOutput(s *server, proc uint32, stream wire.Stream, f *os.File) *output {
	o := &output{s: s, proc: proc, stream: stream, f: f, credit: wire.OutWindow,
		flushed: make(chan struct{}), ended: make(chan struct{})}
	o.cond.L = &o.mu
	return o
}

// run carries until the end of the stream.
func (o *output) run() {
	buf := make([]byte, wire.MaxData)
	flushed := false
	for {
		n, exited, expire := o.allowance(flushed)
		if expire {
			break
		}
		if exited && !flushed {
			flushed = true
			end := o.burst(buf)
			if end || o.last {
				break
			}
			close(o.flushed)
			continue
		}
		m, err := o.read(buf[:n])
		o.deliver(buf[:m])
		if err != nil && !os.IsTimeout(err) && !o.mayReopen(err) {
			break
		}
	}
	if !o.shared {
		o.f.Close()
	}
	o.s.send(wire.KindEOF, o.proc, []byte{byte(o.stream)})
	if !isClosed(o.flushed) {
		close(o.flushed)
	}
	close(o.ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// read reads what there is, waiting for some. A terminal's first EIO is not the
// end: the kernel looks whether the other end is closed after it waited for
// what had been written, and both may have changed meanwhile (n_tty_read). An
// EIO after it is.
func (o *output) read(b []byte) (int, error) {
	n, err := o.f.Read(b)
	if o.shared && isErrno(err, unix.EIO) {
		n, err = o.f.Read(b)
	}
	if o.shared && n >= ttyPile {
		n += o.more(b[n:])
	}
	return n, err
}

// ttyPile is more bytes than a line, and less than what is read when there is
// more.
const ttyPile = 1 << 10

// more reads what else there is, and lets whoever writes go on as long as that
// gives more: a terminal gives 4 KiB at most with one read, and 2 KiB when its
// writer is as fast, which is little for a frame.
func (o *output) more(b []byte) (n int) {
	rc, err := o.f.SyscallConn()
	if err != nil {
		return 0
	}
	for n < len(b) {
		m := 0
		for try := 0; try < 2 && m <= 0; try++ {
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			if rc.Read(func(fd uintptr) bool {
				m, _ = unix.Read(int(fd), b[n:])
				return true
			}) != nil {
				return n
			}
		}
		n += max(m, 0)
		if m < ttyPile {
			break
		}
	}
	return n
}

// reopenInterval is how often a terminal is looked at that no process has open.
const reopenInterval = 100 * time.Millisecond

// mayReopen tells whether there may be more after an error: a process that
// closed its terminal finds it again under /dev/tty as long as it lives.
func (o *output) mayReopen(err error) bool {
	if !o.shared || !isErrno(err, unix.EIO) {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.exited || o.expire {
		return false
	}
	wake := time.AfterFunc(reopenInterval, func() {
		o.mu.Lock() // not before Wait waits
		defer o.mu.Unlock()
		o.cond.Broadcast()
	})
	defer wake.Stop()
	o.cond.Wait()
	return true
}

// allowance waits until something may be read, and says how much.
func (o *output) allowance(flushed bool) (n int, exited, expire bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.credit <= 0 && !o.expire && (flushed || !o.exited) {
		o.cond.Wait()
	}
	return min(max(o.credit, 0), wire.MaxData), o.exited, o.expire
}

// burst sends what the stream holds, at most ExitBurst bytes, without waiting.
// It reports whether the stream is at its end.
func (o *output) burst(buf []byte) (end bool) {
	o.f.SetReadDeadline(time.Time{})
	rc, err := o.f.SyscallConn()
	if err != nil {
		return true
	}
	empty := 1 // of a pipe's answers that there is nothing, one is enough
	if o.shared {
		empty = 2 // see read
	}
	for sent := 0; sent < wire.ExitBurst; {
		var n int
		var rerr error
		err := rc.Read(func(fd uintptr) bool {
			n, rerr = unix.Read(int(fd), buf[:min(len(buf), wire.ExitBurst-sent)])
			return true
		})
		switch {
		case err != nil:
			return true
		case rerr == unix.EINTR:
			continue
		case o.shared && empty > 1 && (rerr == unix.EAGAIN || rerr == unix.EIO):
			empty--
			continue
		case rerr == unix.EAGAIN:
			return false
		case rerr != nil || n == 0:
			return true
		}
		o.deliver(buf[:n])
		sent += n
	}
	return false
}

func (o *output) deliver(b []byte) {
	if len(b) == 0 {
		return
	}
	o.mu.Lock()
	o.credit -= len(b)
	o.mu.Unlock()
	o.s.send(wire.KindData, o.proc, []byte{byte(o.stream)}, b)
}

func (o *output) give(n int) {
	o.mu.Lock()
	o.credit = min(o.credit+n, wire.OutWindow)
	o.mu.Unlock()
	o.cond.Signal()
}

// exit makes run send what the process left; with last, run then ends.
func (o *output) exit(last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.exited, o.last = true, last
	o.cond.Signal()
	// Wakes a Read that waits. Under the lock, so that burst, which run calls
	// only after it saw exited, can undo it.
	o.f.SetReadDeadline(time.Unix(1, 0))
}

// stop makes run end, whoever still holds the stream.
func (o *output) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expire = true
	o.cond.Signal()
	o.f.SetReadDeadline(time.Unix(1, 0))
}

// input carries a process' standard input from the host.
type input struct {
	s      *server
	proc   uint32
	f      *os.File
	shared bool // f is an output's, too: end-of-file does not close it

	mu      sync.Mutex
	cond    sync.Cond
	pending []byte // at most InWindow bytes
	eof     bool   // no more is to come
	broken  bool   // the process reads no more
}

func newInput(s *server, proc uint32, f *os.File, shared bool) *input {
	in := &input{s: s, proc: proc, f: f, shared: shared}
	in.cond.L = &in.mu
	return in
}

// push takes data from the host, which never sends more than the window.
func (in *input) push(data []byte, eof bool) {
	in.mu.Lock()
	if !in.broken && !in.eof && len(in.pending)+len(data) <= wire.InWindow {
		in.pending = append(in.pending, data...)
	}
	in.eof = in.eof || eof
	in.mu.Unlock()
	in.cond.Signal()
}

// run writes what comes until end-of-file, or until the process reads no more;
// the host then gets no more credit. It returns why it could not write.
func (in *input) run() (err error) {
	for {
		in.mu.Lock()
		for len(in.pending) == 0 && !in.eof && !in.broken {
			in.cond.Wait()
		}
		data := in.pending
		in.pending = nil
		in.mu.Unlock()
		if len(data) == 0 {
			break
		}
		if _, err = in.f.Write(data); err != nil {
			break
		}
		in.s.send(wire.KindCredit, in.proc, wire.EncodeCredit(wire.Stdin, len(data)))
	}
	in.mu.Lock()
	in.broken = true
	in.pending = nil
	in.mu.Unlock()
	if !in.shared {
		in.f.Close()
	}
	return err
}

// close ends the stream: its process is dead.
func (in *input) close() {
	in.mu.Lock()
	in.broken = true
	in.mu.Unlock()
	in.cond.Signal()
	if !in.shared {
		in.f.Close()
	} else {
		in.f.SetWriteDeadline(time.Unix(1, 0))
	}
}
