package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

// The guest's answers: dialTimeout is longer than what PID 1 waits for a server of
// each family, resetTimeout is for what takes no time.
const (
	dialTimeout  = 15 * time.Second
	resetTimeout = 5 * time.Second
)

var _ unikernel.Forwarder = (*session)(nil)

// errBroken: one side of a connection has broken it off.
var errBroken = errors.New("the connection was broken off")

// Forward implements unikernel.Forwarder.
func (s *session) Forward(ctx context.Context, to netip.AddrPort, client unikernel.Conn) error {
	side := &clientSide{Conn: client, broken: make(chan struct{})}
	address := to.Addr().Unmap()
	p, err := s.dial(ctx, wire.Dial{Address: string(address.AsSlice()), Port: to.Port()}, side)
	if err == nil {
		err = p.carry(ctx, side)
	}
	if err != nil {
		return fmt.Errorf("connection to %s in the guest: %w", netip.AddrPortFrom(address, to.Port()), err)
	}
	return nil
}

// dial has the guest connect.
func (s *session) dial(ctx context.Context, d wire.Dial, side *clientSide) (*proc, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.start(ctx, wire.KindDial, unikernel.Stdio{Stdin: side, Stdout: side}, false, func(id uint32) []byte {
		d.ID = id
		return d.Encode()
	})
}

// carry returns when both directions of a connection have ended and the client has
// all of it, or when it breaks off.
func (p *proc) carry(ctx context.Context, side *clientSide) error {
	written, exited := p.outs[wire.Stdout].written, p.exited
	for written != nil || exited != nil {
		select {
		case <-written:
			written = nil
			if err := p.brokenOff(); err != nil {
				return err // its output may have ended for that
			}
			if err := side.CloseWrite(); err != nil {
				return p.reset(err)
			}
		case <-exited:
			exited = nil
			if err := p.brokenOff(); err != nil {
				return err
			}
		case <-side.broken:
			return p.reset(side.err)
		case <-ctx.Done():
			return p.reset(context.Cause(ctx))
		}
	}
	return nil
}

// brokenOff says whether a connection ended before both of its directions had.
func (p *proc) brokenOff() error {
	if !p.finished() {
		return nil
	}
	x, err := p.Exit()
	if err == nil && x.Status != 0 {
		err = errBroken
	}
	return err
}

// reset has the guest break off a connection, and returns why.
func (p *proc) reset(why error) error {
	ctx, cancel := context.WithTimeout(context.Background(), resetTimeout)
	defer cancel()
	_ = p.Signal(ctx, syscall.SIGKILL, false) // a guest that is gone has done so
	return why
}

// clientSide is the client of a connection, seen by the streams that carry it.
type clientSide struct {
	unikernel.Conn
	once   sync.Once
	broken chan struct{} // closed once err is set
	err    error
}

// fail records that the client has broken off.
func (c *clientSide) fail(err error) error {
	c.once.Do(func() {
		c.err = err
		close(c.broken)
	})
	return fmt.Errorf("%w: %w", errBroken, err)
}

func (c *clientSide) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && err != io.EOF {
		err = c.fail(err)
	}
	return n, err
}

func (c *clientSide) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		err = c.fail(err)
	}
	return n, err
}
