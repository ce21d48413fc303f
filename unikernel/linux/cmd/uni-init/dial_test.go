package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// testTimeout bounds what happens at once unless something is broken.
const testTimeout = 20 * time.Second

// host is the other end of a server's port, played by a test.
type host struct {
	t    *testing.T
	s    *server
	conn *os.File
	r    *wire.Reader
}

func newHost(t *testing.T) *host {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	port, conn := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "host")
	t.Cleanup(func() { port.Close(); conn.Close() })
	conn.SetDeadline(time.Now().Add(testTimeout))
	return &host{t: t, s: newServer(port), conn: conn, r: wire.NewReader(conn, wire.MaxGuestPayload)}
}

// next reads one frame, which must be of that kind.
func (h *host) next(kind wire.Kind) wire.Frame {
	h.t.Helper()
	f, err := h.r.Read()
	if err != nil || f.Kind != kind {
		h.t.Fatalf("the guest sent kind %d, %v; want kind %d", f.Kind, err, kind)
	}
	return f
}

// send has the guest handle a frame.
func (h *host) send(kind wire.Kind, id uint32, payload []byte) {
	h.t.Helper()
	if err := h.s.handle(wire.Frame{Kind: kind, ID: id, Payload: payload}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) data(id uint32, text string) { h.send(wire.KindData, id, []byte("\x00"+text)) }

// dial has the guest connect and returns its answer.
func (h *host) dial(id uint32, to netip.AddrPort) wire.Reply {
	h.t.Helper()
	h.send(wire.KindDial, 1000+id, wire.Dial{ID: id, Address: string(to.Addr().AsSlice()), Port: to.Port()}.Encode())
	f := h.next(wire.KindReply)
	r, err := wire.DecodeReply(f.Payload)
	if err != nil || f.ID != 1000+id {
		h.t.Fatalf("reply %d, %v", f.ID, err)
	}
	return r
}

// exits reads the end of a connection.
func (h *host) exits(id, status uint32) {
	h.t.Helper()
	f := h.next(wire.KindExit)
	if x, err := wire.DecodeExit(f.Payload); err != nil || x.Status != status || f.ID != id {
		h.t.Errorf("exit %+v of %d, %v; want %d of %d", x, f.ID, err, status, id)
	}
	if status != 0 {
		h.next(wire.KindEOF)
	}
}

// listen makes a server, or none where the test's host lacks the family.
func listen(t *testing.T, address string) (*net.TCPListener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), l.Addr().(*net.TCPAddr).AddrPort()
}

// connected has the guest connect to a server and returns the server's end.
func (h *host) connected(id uint32, l *net.TCPListener) *net.TCPConn {
	h.t.Helper()
	if r := h.dial(id, l.Addr().(*net.TCPAddr).AddrPort()); r.Code != wire.CodeOK {
		h.t.Fatalf("%+v", r)
	}
	conn, err := l.AcceptTCP()
	if err != nil {
		h.t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(testTimeout))
	return conn
}

// TestDial: bytes and half-closes pass in both orders, and nothing is kept.
func TestDial(t *testing.T) {
	h := newHost(t)
	l, _ := listen(t, "127.0.0.1:0")
	for id := uint32(1); id <= 2; id++ {
		conn := h.connected(id, l)
		ask := func() {
			h.data(id, "question")
			h.send(wire.KindEOF, id, []byte{byte(wire.Stdin)})
			if f := h.next(wire.KindCredit); f.ID != id {
				t.Errorf("credit for %d", f.ID)
			}
			if got, err := io.ReadAll(conn); string(got) != "question" || err != nil {
				t.Errorf("the server got %q, %v", got, err)
			}
		}
		answer := func() {
			io.WriteString(conn, "answer")
			conn.CloseWrite()
			if f := h.next(wire.KindData); string(f.Payload) != "\x01answer" || f.ID != id {
				t.Errorf("the host got %q", f.Payload)
			}
			h.next(wire.KindEOF)
		}
		if id == 1 {
			ask()
			answer()
		} else {
			answer()
			ask()
		}
		h.exits(id, 0)
		conn.Close()
	}
	if len(h.s.conns) != 0 || len(h.s.slots) != 0 {
		t.Errorf("%d connections, %d places are taken", len(h.s.conns), len(h.s.slots))
	}
}

// TestDialOther: who asks for a loopback address gets the server of either family.
func TestDialOther(t *testing.T) {
	h := newHost(t)
	for asked, address := range map[string]string{"127.0.0.1": "[::1]:0", "::1": "127.0.0.1:0"} {
		l, at := listen(t, address)
		if r := h.dial(1, netip.AddrPortFrom(netip.MustParseAddr(asked), at.Port())); r.Code != wire.CodeOK {
			t.Errorf("%s: %+v", asked, r)
			continue
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		h.next(wire.KindEOF)
		h.send(wire.KindEOF, 1, []byte{byte(wire.Stdin)})
		h.exits(1, 0)
	}
	l, at := listen(t, "127.0.0.1:0")
	l.Close()
	for _, address := range []string{"127.0.0.1", "::1", "127.0.0.2"} {
		if r := h.dial(2, netip.AddrPortFrom(netip.MustParseAddr(address), at.Port())); r.Code != wire.CodeNotFound || r.Text != "connection refused" {
			t.Errorf("nobody listens at %s: %+v", address, r)
		}
	}
}

// TestDialBreaks: a reset passes both ways, wherever bytes are stuck.
func TestDialBreaks(t *testing.T) {
	h := newHost(t)
	l, _ := listen(t, "127.0.0.1:0")

	conn := h.connected(1, l)
	conn.SetLinger(0)
	conn.Close()
	h.exits(1, 1)

	conn = h.connected(2, l)
	h.send(wire.KindSignal, 7, wire.Signal{Process: 2, Signal: uint32(unix.SIGKILL)}.Encode())
	h.next(wire.KindReply)
	h.exits(2, 1)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server sees %v", err)
	}

	// The host gives no credit, and the server neither reads nor stops sending.
	conn = h.connected(3, l)
	go io.Copy(conn, strings.NewReader(strings.Repeat("x", 16<<20)))
	for got := 0; got < wire.OutWindow; {
		got += len(h.next(wire.KindData).Payload) - 1
	}
	h.send(wire.KindSignal, 8, wire.Signal{Process: 3, Signal: uint32(unix.SIGKILL)}.Encode())
	h.next(wire.KindReply)
	h.exits(3, 1)
	conn.Close()
}

// TestDialMost: one connection more than may be is refused, and those there are stay.
func TestDialMost(t *testing.T) {
	h := newHost(t)
	l, at := listen(t, "127.0.0.1:0")
	var conns []*net.TCPConn
	for id := range uint32(wire.MaxConnections) {
		conns = append(conns, h.connected(id+1, l))
	}
	if r := h.dial(1000, at); r.Code != wire.CodeInvalid || !strings.Contains(r.Text, "as many connections") {
		t.Errorf("%+v", r)
	}
	conns[0].SetLinger(0)
	conns[0].Close()
	h.exits(1, 1)
	conns = append(conns[1:], h.connected(1001, l))
	for _, conn := range conns {
		conn.Close()
	}
}

// TestSelfConnection: where nobody listens a connection may meet itself; that is
// none.
func TestSelfConnection(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, self); err != nil {
		t.Fatal(err)
	}
	if !selfConnected(fd) {
		t.Error("a socket that is connected to itself is taken for one to a server")
	}
}
