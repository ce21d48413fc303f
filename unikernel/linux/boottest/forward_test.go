package boottest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/guesttest"
)

// forward connects to a server in the machine.
func (m *machine) forward(to string) (*net.TCPConn, <-chan error) {
	m.t.Helper()
	return guesttest.Forward(m.t.Context(), m.t, m.session, netip.MustParseAddrPort(to))
}

// ask sends a server all there is and returns all that it answers.
func (m *machine) ask(to, question string) (string, error) {
	m.t.Helper()
	conn, result := m.forward(to)
	go func() {
		io.WriteString(conn, question)
		conn.CloseWrite()
	}()
	answer, err := io.ReadAll(conn)
	conn.Close()
	return string(answer), errors.Join(err, <-result)
}

// serve starts the container with servers, and returns when they answer.
func serve(t *testing.T, at string, script string) (*machine, unikernel.Process) {
	t.Helper()
	a := app("sh", "-c", script)
	m := boot(t, "microvm", image(t), a)
	p := m.run(a, unikernel.Stdio{})
	for deadline := time.Now().Add(processTimeout); ; {
		_, err := m.ask(at, "")
		if err == nil {
			return m, p
		}
		if !errors.Is(err, unikernel.ErrNotFound) || time.Now().After(deadline) {
			t.Fatalf("%s: %v", at, err)
		}
	}
}

// TestForward: connections of the host reach servers in the machine, of either family
// and on its loopback addresses alone, many at once, and end as they should.
func TestForward(t *testing.T) {
	needQEMU(t)
	m, p := serve(t, "127.0.0.1:7", `cd /data
		busybox httpd -p 127.0.0.1:80; busybox httpd -p '[::1]:81'
		exec busybox nc -ll -p 7 -e cat`)

	const get = "GET /file HTTP/1.0\r\n\r\n"
	for _, to := range []string{"127.0.0.1:80", "[::1]:80", "127.0.0.1:81", "[::1]:81"} {
		if got, err := m.ask(to, get); err != nil || !strings.HasSuffix(got, "\r\n\r\nx") {
			t.Errorf("%s: %q, %v", to, got, err)
		}
	}
	for _, to := range []string{"127.0.0.1:9", "[::1]:9"} {
		conn, result := m.forward(to)
		if err := <-result; !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("%s, where nobody listens: %v", to, err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s, where nobody listens: the client sees %v", to, err)
		}
	}

	// A hundred at once, one after the other since the server lets ten wait.
	type open struct {
		conn   *net.TCPConn
		result <-chan error
	}
	var all []open
	for i := range 100 {
		conn, result := m.forward("127.0.0.1:7")
		answer := make([]byte, 5)
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "hello" {
			t.Fatalf("connection %d: %q, %v", i, answer, err)
		}
		all = append(all, open{conn, result})
	}
	for i, o := range all {
		o.conn.SetDeadline(time.Now().Add(processTimeout))
		o.conn.CloseWrite()
		rest, err := io.ReadAll(o.conn)
		if err = errors.Join(err, <-o.result); len(rest) > 0 || err != nil {
			t.Errorf("connection %d after the half-close: %q, %v", i, rest, err)
		}
	}
	m.end(p)
}

// TestForwardLoad: much data passes both ways whole, beside a server that never
// reads, which takes a bounded part of what it is sent and holds up nobody.
func TestForwardLoad(t *testing.T) {
	needQEMU(t)
	m, p := serve(t, "127.0.0.1:7", `busybox nc -ll -p 8 -e sleep 1000 & exec busybox nc -ll -p 7 -e cat`)

	stuck, stuckResult := m.forward("127.0.0.1:8")
	stuck.SetDeadline(time.Time{})
	var taken atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for chunk := make([]byte, 64<<10); ; {
			n, err := stuck.Write(chunk)
			taken.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()

	const size = 50 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	conn, result := m.forward("[::1]:7")
	conn.SetDeadline(time.Time{})
	go func() {
		io.Copy(conn, bytes.NewReader(data))
		conn.CloseWrite()
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, conn)
	if err = errors.Join(err, <-result); err != nil || n != size || [32]byte(sum.Sum(nil)) != sha256.Sum256(data) {
		t.Errorf("%d bytes of %d came back, %v", n, size, err)
	}
	// Socket buffers on both sides are most of it.
	if n := taken.Load(); n > 24<<20 {
		t.Errorf("a server that never reads was sent %d bytes", n)
	}
	m.end(p)
	if err := <-stuckResult; err == nil {
		t.Error("a connection whose server was killed had a proper end")
	}
	<-ended
}
