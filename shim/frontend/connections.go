package frontend

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
)

// connections counts the connections of the task service. ttrpc's own Shutdown
// does not: it takes a connection on which a first call is being answered for
// idle, and closes it under the answer.
type connections struct{ open atomic.Int64 }

// Handshake accepts, as containerd's shims do, only clients of our own user.
func (c *connections) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, meta, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return conn, meta, err
	}
	c.open.Add(1)
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { c.open.Add(-1) })}, meta, nil
}

// drain waits until the clients have closed their connections, or ctx ends.
func (c *connections) drain(ctx context.Context) {
	const look = 2 * time.Millisecond
	for c.open.Load() > 0 && ctx.Err() == nil {
		time.Sleep(look)
	}
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
