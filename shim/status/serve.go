package status

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// timeout bounds one connection at both ends: a shim asks its guest, which may
	// take two seconds not to answer.
	timeout = 5 * time.Second
	// maxRequest bounds a request, maxAnswer an answer, in bytes.
	maxRequest, maxAnswer = 4 << 10, 4 << 20
	// maxClients is how many are answered at a time; others wait.
	maxClients = 4
)

// Server answers on one socket.
type Server struct {
	listener *net.UnixListener
	clients  sync.WaitGroup
}

// Serve answers on a socket at path, whose directory exists, until Close.
func Serve(path string, source Source) (*Server, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &Server{listener: l}
	s.clients.Go(func() { s.accept(source) })
	return s, nil
}

// Close ends it, and removes the socket.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.clients.Wait()
	return err
}

func (s *Server) accept(source Source) {
	slots := make(chan struct{}, maxClients)
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: it may pass
			time.Sleep(timeout / 50)
			continue
		}
		slots <- struct{}{}
		s.clients.Go(func() {
			defer func() { <-slots }()
			answer(conn, source)
		})
	}
}

// answer answers one client. One that hangs up or says nonsense gets nothing.
func answer(conn net.Conn, source Source) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	if err != nil {
		return
	}
	var r Request
	if json.Unmarshal(line, &r) != nil {
		return
	}
	var a Answer
	if r.Console > 0 {
		a.Console = source.Tail(r.Console)
	} else {
		m := source.Status()
		a.Machine = &m
	}
	_ = json.NewEncoder(conn).Encode(a)
}
