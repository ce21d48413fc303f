package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/log"
)

// testTimeout bounds what happens at once unless something is broken.
const testTimeout = 20 * time.Second

// forwarding begins to forward what connects to a listener.
func forwarding(t *testing.T, l net.Listener, carry carrier) (address string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		forward(ctx, log.L, []net.Listener{l}, carry)
	}()
	end = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(testTimeout):
			t.Fatal("it goes on after its end")
		}
	}
	t.Cleanup(end)
	return l.Addr().String(), end
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func connect(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// TestForward: a connection has its proper end, or is reset where it did not get
// one.
func TestForward(t *testing.T) {
	address, _ := forwarding(t, listener(t), func(_ context.Context, to netip.AddrPort, client unikernel.Conn) error {
		said, err := io.ReadAll(client)
		if err != nil {
			return err
		}
		if string(said) == "refuse" {
			return unikernel.ErrNotFound
		}
		if _, err := io.WriteString(client, to.String()); err != nil {
			return err
		}
		return client.CloseWrite()
	})
	for say, want := range map[string]error{"hello": nil, "refuse": syscall.ECONNRESET} {
		conn := connect(t, address)
		if _, err := io.WriteString(conn, say); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); !errors.Is(err, want) || err == nil && string(got) != address {
			t.Errorf("%s: %q, %v", say, got, err)
		}
	}
}

// TestForwardBounded: no more than so many are carried at once, the others wait, and
// the end of the sandbox is that of all.
func TestForwardBounded(t *testing.T) {
	var carried atomic.Int32
	began, release := make(chan struct{}, 2*mostForwarded), make(chan struct{})
	address, end := forwarding(t, listener(t), func(ctx context.Context, _ netip.AddrPort, _ unikernel.Conn) error {
		carried.Add(1)
		defer carried.Add(-1)
		began <- struct{}{}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	var conns []*net.TCPConn
	for range mostForwarded + 5 {
		conns = append(conns, connect(t, address))
	}
	for range mostForwarded {
		<-began
	}
	if n := carried.Load(); n != mostForwarded || len(began) != 0 {
		t.Errorf("%d are carried at once, want %d", n, mostForwarded)
	}
	for range 5 {
		release <- struct{}{}
		<-began
	}
	end()
	reset := 0
	for _, conn := range conns {
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNRESET) {
			reset++
		}
	}
	if reset != mostForwarded {
		t.Errorf("%d of the %d connections that were carried at the end were reset", reset, mostForwarded)
	}
}

// TestForwardReset: a client's reset is noticed where nobody reads what it sent
// before, and a half-close is none.
func TestForwardReset(t *testing.T) {
	causes := make(chan error)
	address, _ := forwarding(t, listener(t), func(ctx context.Context, _ netip.AddrPort, _ unikernel.Conn) error {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	})
	conns := map[bool]*net.TCPConn{true: connect(t, address), false: connect(t, address)}
	for reset, conn := range conns {
		if _, err := io.WriteString(conn, "unread"); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if reset {
			_ = conn.SetLinger(0)
			conn.Close()
		}
	}
	if err := <-causes; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("one ended for %v", err)
	}
	select {
	case err := <-causes:
		t.Errorf("so did the other, for %v", err)
	default:
	}
	go func() { <-causes }()
}

// flaky is a listener that fails before it accepts.
type flaky struct {
	net.Listener
	failed bool
}

func (l *flaky) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}

// TestForwardAgain: a listener that fails once is asked again.
func TestForwardAgain(t *testing.T) {
	address, _ := forwarding(t, &flaky{Listener: listener(t)}, func(context.Context, netip.AddrPort, unikernel.Conn) error { return nil })
	if _, err := connect(t, address).Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v", err)
	}
}
