package console

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// keep is how many bytes of the console are kept.
	keep      = 16 << 10
	dialRetry = 20 * time.Millisecond
	// A hypervisor passes a serial port's bytes on one by one, and each would
	// wake us, at no cost of the guest's. Between two reads they pile up: 1000
	// reads a second of readSize bytes are 32 MB/s, which no serial port gives.
	readPause = time.Millisecond
	readSize  = 32 << 10
)

// Console is the console of one machine.
type Console struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	ring []byte // the last bytes, oldest at next once full
	next int
	full bool
}

// Attach connects to the Unix socket on which a hypervisor offers a console,
// as soon as it is there, and reads until the machine ends or Close. What is
// read is written to also, unless that is nil, and the end of it closes also. A
// writer that blocks holds up the guest; one that fails gets nothing more.
func Attach(path string, also io.WriteCloser) *Console {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Console{cancel: cancel, done: make(chan struct{}), ring: make([]byte, 0, 512)}
	go c.read(ctx, path, also)
	return c
}

// Close stops reading. What was read stays.
func (c *Console) Close() {
	c.cancel()
	<-c.done
}

// Ended is closed when the hypervisor closed the console, or after Close.
func (c *Console) Ended() <-chan struct{} { return c.done }

func (c *Console) read(ctx context.Context, path string, also io.WriteCloser) {
	defer close(c.done)
	if also != nil {
		defer also.Close()
		// A write that blocks must not outlive Close.
		end := also.Close
		defer context.AfterFunc(ctx, func() { _ = end() })()
	}
	conn, err := Dial(ctx, path)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	buf := make([]byte, readSize)
	for {
		n, err := conn.Read(buf)
		c.add(buf[:n])
		if also != nil && n > 0 {
			if _, err := also.Write(buf[:n]); err != nil {
				also = nil
			}
		}
		if err != nil {
			return
		}
		time.Sleep(readPause)
	}
}

func (c *Console) add(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) > keep {
		p = p[len(p)-keep:]
	}
	if grow := min(len(p), keep-len(c.ring)); grow > 0 {
		c.ring = append(c.ring, p[:grow]...)
		p = p[grow:]
	}
	for len(p) > 0 {
		n := copy(c.ring[c.next:], p)
		p = p[n:]
		c.next = (c.next + n) % keep
		c.full = true
	}
}

// Tail returns the last lines of the console, at most n, without control
// characters.
func (c *Console) Tail(n int) []string {
	c.mu.Lock()
	text := string(c.ring)
	if c.full {
		text = string(c.ring[c.next:]) + string(c.ring[:c.next])
	}
	c.mu.Unlock()

	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.Map(func(r rune) rune {
			if r == '\t' || unicode.IsPrint(r) {
				return r
			}
			return -1
		}, line)
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// Dial connects to a Unix socket on which a hypervisor listens, trying again
// until it does or the context ends.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(dialRetry):
		}
	}
}
