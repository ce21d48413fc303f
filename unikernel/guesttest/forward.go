package guesttest

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// Forward has a guest carry a connection to one of its servers as a sandbox does. It
// returns the client's end, and what Forward returns.
func Forward(ctx context.Context, t *testing.T, s unikernel.Session, to netip.AddrPort) (client *net.TCPConn, result <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ours, done := accepted.(*net.TCPConn), make(chan error, 1)
	go func() {
		err := s.(unikernel.Forwarder).Forward(ctx, to, ours)
		if err != nil {
			_ = ours.SetLinger(0)
		}
		_ = ours.Close()
		done <- err
	}()
	return conn.(*net.TCPConn), done
}
