package main

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// connectTimeout bounds waiting for a server to take a connection. Within a machine
// it takes or refuses at once, unless as many wait as it lets.
const connectTimeout = 5 * time.Second

// connection is one that the host asked for to a server in the machine. Its input
// is what the server is sent, its output what comes from the server.
type connection struct {
	s      *server
	id     uint32
	f      *os.File
	in     *input
	out    *output
	broken atomic.Bool
}

// errCrowdedOut and errRefused answer a request for a connection.
var (
	errCrowdedOut = &failure{wire.CodeInvalid, "the machine has as many connections of the host as it may: close some"}
	errRefused    = &failure{wire.CodeNotFound, "connection refused"}
)

// dial makes a connection, answers the request and carries until the end.
func (s *server) dial(req uint32, r wire.Dial) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.reply(req, errCrowdedOut)
		return
	}
	f, err := connectNear(r.Address, r.Port)
	if err != nil {
		<-s.slots
		s.reply(req, err)
		return
	}
	c := &connection{s: s, id: r.ID, f: f, in: newInput(s, r.ID, f, true), out: newOutput(s, r.ID, wire.Stdout, f)}
	s.mu.Lock()
	s.conns[r.ID] = c
	s.mu.Unlock()
	s.reply(req, nil)
	c.carry()
}

// carry carries both ways until both have ended.
func (c *connection) carry() {
	var both sync.WaitGroup
	both.Add(1)
	go func() {
		c.send()
		both.Done()
	}()
	c.receive()
	both.Wait()

	status := uint32(0)
	rc, err := c.f.SyscallConn()
	if c.broken.Load() {
		status = 1
		if err == nil { // the server, too, shall see that it was no proper end
			rc.Control(func(fd uintptr) {
				unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			})
		}
	}
	c.f.Close()
	c.s.mu.Lock()
	delete(c.s.conns, c.id)
	c.s.mu.Unlock()
	<-c.s.slots // before the host knows
	c.s.send(wire.KindExit, c.id, wire.Exit{Status: status}.Encode())
	if status != 0 {
		c.s.send(wire.KindEOF, c.id, []byte{byte(wire.Stdout)})
	}
}

// send gives the server what comes from the host, and then its end.
func (c *connection) send() {
	if c.in.run() != nil {
		c.breakOff()
	}
	if rc, err := c.f.SyscallConn(); err == nil && !c.broken.Load() {
		rc.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// receive sends the host what comes from the server, as far as it has credit, and
// then its end.
func (c *connection) receive() {
	buf := make([]byte, wire.MaxData)
	for {
		n, _, expire := c.out.allowance(true)
		if expire {
			return
		}
		m, err := c.f.Read(buf[:n])
		c.out.deliver(buf[:m])
		if err == io.EOF && !c.broken.Load() {
			c.s.send(wire.KindEOF, c.id, []byte{byte(wire.Stdout)})
			return
		}
		if err != nil {
			c.breakOff()
			return
		}
	}
}

// breakOff ends both ways at once. It can be repeated.
func (c *connection) breakOff() {
	c.broken.Store(true)
	c.in.close()
	c.out.stop()
}

// connectNear connects to a server in the machine. Who asks for a loopback address
// means the server on the machine, whichever family it took.
func connectNear(address string, port uint16) (*os.File, error) {
	f, err := connect(address, port)
	if err == nil {
		return f, nil
	}
	other := otherLoopback(address)
	if other == "" {
		return nil, err
	}
	f, err2 := connect(other, port)
	if isErrno(err2, unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL) { // there is no IPv6
		return nil, err
	}
	return f, err2
}

const loopback4, loopback6 = "\x7f\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"

// otherLoopback returns the loopback address of the other family, or nothing for an
// address that is none.
func otherLoopback(address string) string {
	switch address {
	case loopback4:
		return loopback6
	case loopback6:
		return loopback4
	}
	return ""
}

func connect(address string, port uint16) (*os.File, error) {
	var to unix.Sockaddr
	if len(address) == 4 {
		to = &unix.SockaddrInet4{Port: int(port), Addr: [4]byte([]byte(address))}
	} else {
		to = &unix.SockaddrInet6{Port: int(port), Addr: [16]byte([]byte(address))}
	}
	fd, err := unix.Socket(int(family(address)), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // who writes to the host decides
	f := os.NewFile(uintptr(fd), "connection")
	f.SetWriteDeadline(time.Now().Add(connectTimeout))
	rc, err := f.SyscallConn()
	if err == nil {
		var cerr error
		itself := false
		err = rc.Write(func(fd uintptr) bool {
			cerr = unix.Connect(int(fd), to) // again, it says how the first went
			itself = cerr == nil && selfConnected(int(fd))
			return cerr != unix.EINPROGRESS && cerr != unix.EALREADY
		})
		switch {
		case err != nil: // the time is over
			err = &failure{wire.CodeInternal, "the server does not take the connection"}
		case itself || cerr == unix.ECONNREFUSED:
			err = errRefused
		default:
			err = os.NewSyscallError("connect", cerr)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	f.SetWriteDeadline(time.Time{})
	return f, nil
}

// selfConnected says that nobody listens and the socket, whose port was chosen from
// those that servers may have as well, met itself (RFC 9293, simultaneous open).
func selfConnected(fd int) bool {
	here, err := unix.Getsockname(fd)
	there, err2 := unix.Getpeername(fd)
	if err != nil || err2 != nil {
		return false
	}
	switch h := here.(type) {
	case *unix.SockaddrInet4:
		t, ok := there.(*unix.SockaddrInet4)
		return ok && h.Port == t.Port && h.Addr == t.Addr
	case *unix.SockaddrInet6:
		t, ok := there.(*unix.SockaddrInet6)
		return ok && h.Port == t.Port && h.Addr == t.Addr
	}
	return false
}
