package linux

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/guesttest"
	"containerd-shim-uni/unikernel/linux/wire"
)

var server = netip.MustParseAddrPort("127.0.0.1:8080")

// acceptDial answers the host's request for a connection and returns it.
func (g *fakeGuest) acceptDial(r wire.Reply) wire.Dial {
	f := g.next(wire.KindDial)
	d, err := wire.DecodeDial(f.Payload)
	if err != nil {
		g.t.Error(err)
	}
	g.reply(f.ID, r)
	return d
}

// TestForward: bytes and half-closes pass in both orders.
func TestForward(t *testing.T) {
	s, g := attach(t)
	for _, clientFirst := range []bool{true, false} {
		client, result := guesttest.Forward(testContext(t), t, s, server)
		d := g.acceptDial(wire.Reply{})
		if d.Address != "\x7f\x00\x00\x01" || d.Port != 8080 {
			t.Errorf("dialed %+v", d)
		}
		ask := func() {
			io.WriteString(client, "question")
			client.CloseWrite()
			if f := g.next(wire.KindData); string(f.Payload) != "\x00question" || f.ID != d.ID {
				t.Errorf("the guest got %q", f.Payload)
			}
			g.next(wire.KindEOF)
		}
		answer := func() {
			g.data(d.ID, wire.Stdout, "answer")
			g.eof(d.ID, wire.Stdout)
			if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
				t.Errorf("the client got %q, %v", got, err)
			}
		}
		if clientFirst {
			ask()
			answer()
		} else {
			answer()
			ask()
		}
		g.send(wire.KindExit, d.ID, wire.Exit{}.Encode())
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
}

// TestForwardBroken: where one side breaks off, the other learns it, and nobody
// takes what there was for all.
func TestForwardBroken(t *testing.T) {
	for name, c := range map[string]struct {
		reply wire.Reply
		do    func(g *fakeGuest, id uint32, client *net.TCPConn, cancel func())
		class error // of Forward
		sees  error // the client
	}{
		"refused":      {reply: wire.Reply{Code: wire.CodeNotFound, Text: "connection refused"}, class: unikernel.ErrNotFound, sees: syscall.ECONNRESET},
		"server reset": {do: breakGuest, class: errBroken, sees: syscall.ECONNRESET},
		"client reset": {do: func(g *fakeGuest, id uint32, client *net.TCPConn, _ func()) {
			client.SetLinger(0)
			client.Close()
			breakNext(g, id)
		}, class: syscall.ECONNRESET, sees: net.ErrClosed},
		"given up": {do: func(g *fakeGuest, id uint32, _ *net.TCPConn, cancel func()) {
			cancel()
			breakNext(g, id)
		}, class: context.Canceled, sees: syscall.ECONNRESET},
		"machine gone": {do: func(g *fakeGuest, _ uint32, _ *net.TCPConn, _ func()) {
			g.conn.Close()
		}, class: unikernel.ErrUnavailable, sees: syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := attach(t)
			ctx, cancel := context.WithCancel(testContext(t))
			defer cancel()
			client, result := guesttest.Forward(ctx, t, s, server)
			d := g.acceptDial(c.reply)
			if c.do != nil {
				g.data(d.ID, wire.Stdout, "half")
				if _, err := io.ReadFull(client, make([]byte, 4)); err != nil {
					t.Error(err)
				}
				c.do(g, d.ID, client, cancel)
			}
			if err := <-result; !errors.Is(err, c.class) || !strings.Contains(err.Error(), server.String()) {
				t.Errorf("error %v, want one that is %q", err, c.class)
			}
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, c.sees) {
				t.Errorf("the client sees %v, want %v", err, c.sees)
			}
		})
	}
}

func breakGuest(g *fakeGuest, id uint32, _ *net.TCPConn, _ func()) {
	g.send(wire.KindExit, id, wire.Exit{Status: 1}.Encode())
	g.eof(id, wire.Stdout)
}

// breakNext breaks off as the guest is told; a half-close must not come before.
func breakNext(g *fakeGuest, id uint32) {
	f := g.next(wire.KindSignal)
	if sig, err := wire.DecodeSignal(f.Payload); err != nil || sig.Process != id {
		g.t.Errorf("signal %+v, %v", sig, err)
	}
	g.reply(f.ID, wire.Reply{})
	breakGuest(g, id, nil, nil)
}

// TestForwardBounds: a guest can have the host keep a window a connection and not
// a byte more, and as many connections as it may, also of those that it never ends.
func TestForwardBounds(t *testing.T) {
	s, g := attach(t)
	endless := newProc(s.(*session), 1<<30, unikernel.Stdio{}, false)
	endless.isConnection = true
	s.(*session).procs[endless.id] = endless
	var results []<-chan error
	var ids []uint32
	for range wire.MaxConnections - 1 {
		_, result := guesttest.Forward(testContext(t), t, s, server)
		results = append(results, result)
		ids = append(ids, g.acceptDial(wire.Reply{}).ID)
	}
	_, result := guesttest.Forward(testContext(t), t, s, server)
	if err := <-result; !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "connections already") {
		t.Errorf("one connection more than the guest may have: %v", err)
	}
	breakGuest(g, ids[0], nil, nil)
	<-results[0]
	within(t, "its place is free", freed(s.(*session)))
	guesttest.Forward(testContext(t), t, s, server)
	g.acceptDial(wire.Reply{})

	s, g = attach(t)
	stuck := &stuckConn{release: make(chan struct{})}
	defer close(stuck.release)
	broken := make(chan error, 1)
	go func() { broken <- s.(unikernel.Forwarder).Forward(testContext(t), server, stuck) }()
	id := g.acceptDial(wire.Reply{}).ID
	g.drain()
	chunk := strings.Repeat("x", wire.MaxData)
	for sent := 0; sent <= wire.OutWindow; sent += len(chunk) {
		g.data(id, wire.Stdout, chunk)
	}
	if err := <-broken; !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "than it has credit for") {
		t.Errorf("more than a window: %v", err)
	}
}

// freed is closed when a guest may have one connection more.
func freed(s *session) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		for range time.Tick(time.Millisecond) {
			s.mu.Lock()
			n := s.connections()
			s.mu.Unlock()
			if n < wire.MaxConnections {
				return
			}
		}
	}()
	return c
}

// stuckConn takes and gives nothing until it is released.
type stuckConn struct{ release chan struct{} }

func (c *stuckConn) Read([]byte) (int, error)    { <-c.release; return 0, io.EOF }
func (c *stuckConn) Write(b []byte) (int, error) { <-c.release; return len(b), nil }
func (c *stuckConn) CloseWrite() error           { return nil }
