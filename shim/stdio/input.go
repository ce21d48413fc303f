package stdio

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"
)

// input is standard input read from a fifo of which the shim holds both ends,
// so only end, never a client that leaves, makes an end-of-file.
type input struct {
	file *os.File

	once  sync.Once
	ended chan struct{} // closed by end
}

func openInput(name string) (*input, error) {
	uri, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, uriError(err))
	}
	if uri.Scheme != "" && uri.Scheme != "fifo" {
		return nil, fmt.Errorf("scheme %q of standard input: %w: use a fifo", uri.Scheme, unikernel.ErrInvalid)
	}
	info, err := os.Stat(uri.Path)
	if err != nil {
		return nil, err
	}
	in := &input{ended: make(chan struct{})}
	if info.Mode()&os.ModeNamedPipe != 0 {
		in.file, err = openFifo(uri.Path)
	} else {
		in.file, err = os.Open(uri.Path)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// end makes Read return end-of-file once the fifo is empty.
func (in *input) end() {
	in.once.Do(func() {
		close(in.ended)
		// Wakes a Read that waits. A regular file has no deadline and needs
		// none: it ends by itself.
		_ = in.file.SetReadDeadline(time.Unix(1, 0))
	})
}

// Read waits for input until end is called; after that it gives what the fifo
// still holds and then end-of-file.
func (in *input) Read(p []byte) (int, error) {
	select {
	case <-in.ended:
		return in.rest(p)
	default:
	}
	n, err := in.file.Read(p)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return in.rest(p)
	case errors.Is(err, os.ErrClosed):
		return n, io.EOF
	}
	return n, err
}

// rest reads without waiting: an empty fifo is end-of-file.
func (in *input) rest(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	conn, err := in.file.SyscallConn()
	if err != nil {
		return 0, io.EOF
	}
	// Control and not Read: the deadline that end set has passed for good.
	ctlErr := conn.Control(func(fd uintptr) {
		for {
			n, err = syscall.Read(int(fd), p)
			if err != syscall.EINTR {
				return
			}
		}
	})
	if ctlErr != nil || errors.Is(err, syscall.EAGAIN) || (err == nil && n == 0) {
		return 0, io.EOF
	}
	return max(n, 0), err
}
