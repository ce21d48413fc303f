package sandbox

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// What connects, within the sandbox's network namespace, to an address of the
// namespace's own means a server of its containers. On the host there is none: the
// connection is carried to the one in the guest. That is how containerd forwards
// ports, and what an operator expects who enters the namespace.

// mostForwarded is how many connections are carried at once; others wait until one
// of those ends.
const mostForwarded = 64

// resetInterval is how often a connection is looked at, since nobody reads from one,
// and so learns of its reset, as long as its server does not.
const resetInterval = time.Second

// acceptRetry is after how long a listener that could not accept is tried again.
const acceptRetry = 100 * time.Millisecond

// watchLoopback carries such connections from when the guest is up until the
// sandbox ends.
func (s *Sandbox) watchLoopback() {
	s.watchers.Go(func() {
		select {
		case <-s.up:
		case <-s.watching.Done():
			return
		}
		guest, ok := s.Session().(unikernel.Forwarder)
		if !ok {
			return
		}
		began := time.Now()
		listeners, err := s.networks.Listen(s.names.Key, s.netns)
		if err != nil {
			s.log().WithError(err).Warn("ports are not forwarded: what connects to 127.0.0.1 in the container's network namespace on the host does not reach its servers")
			return
		}
		s.took("listen", began)
		forward(s.watching, s.log(), listeners, guest.Forward)
	})
}

// carrier is unikernel.Forwarder's Forward.
type carrier func(ctx context.Context, to netip.AddrPort, client unikernel.Conn) error

// forward carries what the listeners accept until ctx ends, and closes them.
func forward(ctx context.Context, log *log.Entry, listeners []net.Listener, carry carrier) {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, mostForwarded)
	for _, l := range listeners {
		stop := context.AfterFunc(ctx, func() { _ = l.Close() })
		all.Go(func() {
			defer stop()
			defer l.Close()
			for {
				conn, err := accept(ctx, l)
				if err != nil {
					return
				}
				slots <- struct{}{} // each of those that are carried ends with ctx
				all.Go(func() {
					defer func() { <-slots }()
					if err := forwardOne(ctx, conn, carry); err != nil {
						log.WithError(err).Debug("a forwarded connection broke off")
					}
				})
			}
		})
	}
}

// forwardOne carries one connection and closes it.
func forwardOne(ctx context.Context, conn *net.TCPConn, carry carrier) error {
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		tick := time.NewTicker(resetInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if wasReset(conn) {
					cancel(unix.ECONNRESET)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	err := carry(ctx, conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn)
	if err != nil {
		_ = conn.SetLinger(0) // the client, too, shall see that it was no proper end
	}
	return err
}

// wasReset says whether a client has reset its connection, without taking that from
// the next one who reads or writes.
func wasReset(conn *net.TCPConn) (reset bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		asked := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(asked, 0)
		reset = err == nil && asked[0].Revents&unix.POLLERR != 0
	})
	return reset
}

// accept returns the next connection; what passes does not end it.
func accept(ctx context.Context, l net.Listener) (*net.TCPConn, error) {
	for {
		conn, err := l.Accept()
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		select {
		case <-time.After(acceptRetry):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
