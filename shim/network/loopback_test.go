package network

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dialTimeout bounds what happens at once unless something is broken.
const dialTimeout = 20 * time.Second

// dialIn connects within a namespace, from a port unless it is 0.
func dialIn(t *testing.T, path, to string, port int) (conn *net.TCPConn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: dialTimeout}
	if port != 0 {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP("127.0.0.1"), Port: port}
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		}
	}
	err = Within(path, func() error {
		c, err := d.Dial("tcp", to)
		if err == nil {
			conn = c.(*net.TCPConn)
			err = conn.SetDeadline(time.Now().Add(dialTimeout))
		}
		return err
	})
	return conn, err
}

// caught connects within a namespace and returns what the other side says.
func caught(t *testing.T, path, to string, port int) string {
	t.Helper()
	conn, err := dialIn(t, path, to, port)
	if err != nil {
		t.Errorf("connect to %s: %v", to, err)
		return ""
	}
	defer conn.Close()
	said, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("connection to %s: %v", to, err)
	}
	return string(said)
}

// say has each connection to a listener told for where it was made, and closed.
func say(l net.Listener, who string) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, who+" "+c.LocalAddr().String())
			_ = c.Close()
		}
	}()
}

// listening makes a namespace of which everything is taken.
func listening(t *testing.T) (key, path string, listeners []net.Listener) {
	t.Helper()
	path, _ = newPod(t)
	err := inNamespace(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName("net1")
		if err != nil {
			return err
		}
		a := address(podIP6.String() + "/64")
		a.Flags = unix.IFA_F_NODAD
		return h.AddrAdd(link, &a)
	})
	if err != nil {
		t.Fatal(err)
	}
	key = unikernel.Key("test", t.Name())
	if listeners, err = (Linker{}).Listen(key, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(listeners) })
	for _, l := range listeners {
		say(l, "caught")
	}
	return key, path, listeners
}

// TestListen: every port of every address of the namespace's own is taken but those
// for which something listens, and nothing beyond.
func TestListen(t *testing.T) {
	needRoot(t)
	key, path, listeners := listening(t)
	if len(listeners) != 2 {
		t.Fatalf("%d listeners", len(listeners))
	}
	for _, to := range []string{"127.0.0.1:1", "127.0.0.1:80", "127.0.0.1:65535", "127.0.0.2:80", podIP.String() + ":80",
		"[::1]:1", "[::1]:65535", "[" + podIP6.String() + "]:80", listeners[0].Addr().String(), listeners[1].Addr().String()} {
		if got := caught(t, path, to, 0); got != "caught "+to {
			t.Errorf("connected to %s: %q", to, got)
		}
	}
	for own, to := range map[string]string{"127.0.0.1:7001": "127.0.0.1:7001", "0.0.0.0:7002": "127.0.0.1:7002", "[::]:7003": "127.0.0.1:7003",
		"[::1]:7004": "[::1]:7004"} {
		err := Within(path, func() error {
			l, err := net.Listen("tcp", own)
			if err == nil {
				t.Cleanup(func() { l.Close() })
				say(l, "own")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := caught(t, path, to, 0); got != "own "+to {
			t.Errorf("%s is listened for, and reached %q", to, got)
		}
	}
	if _, err := dialIn(t, path, peerIP.String()+":80", 0); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the peer, where nobody listens: %v", err)
	}
	// The server's side closes first, so its half of the connection is not over.
	for range 3 {
		if got := caught(t, path, "127.0.0.1:80", 7100); got != "caught 127.0.0.1:80" {
			t.Errorf("from a port that was used just now: %q", got)
		}
	}
	if _, err := (Linker{}).Look(path); err != nil {
		t.Errorf("the namespace cannot be taken over any more: %v", err)
	}
	closeAll(listeners)
	for _, to := range []string{"127.0.0.1:80", "[::1]:80"} {
		if _, err := dialIn(t, path, to, 0); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s without listeners: %v, want that it is refused", to, err)
		}
	}
	for range 2 {
		if err := (Linker{}).Remove(key, path); err != nil {
			t.Error(err)
		}
	}
	if left := disciplines(t, path); left != "" {
		t.Errorf("left on lo: %s", left)
	}
}

// disciplines lists what is on a namespace's loopback interface.
func disciplines(t *testing.T, path string) (names string) {
	t.Helper()
	err := inNamespace(path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		list, err := h.QdiscList(lo)
		for _, q := range list {
			if q.Type() != "noqueue" {
				names += q.Type() + " "
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestListenWithoutIPv6: a namespace without it has one listener.
func TestListenWithoutIPv6(t *testing.T) {
	needRoot(t)
	path, _ := newPod(t)
	err := Within(path, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := (Linker{}).Listen(unikernel.Key("test", t.Name()), path)
	if err != nil || len(listeners) != 1 {
		t.Fatalf("%d listeners, %v", len(listeners), err)
	}
	defer closeAll(listeners)
	say(listeners[0], "caught")
	if got := caught(t, path, "127.0.0.1:80", 0); got != "caught 127.0.0.1:80" {
		t.Errorf("got %q", got)
	}
}

// TestListenRefused: the host's own namespace is left alone, and what fails halfway
// leaves nothing.
func TestListenRefused(t *testing.T) {
	needRoot(t)
	before := disciplines(t, "/proc/self/ns/net")
	for _, path := range []string{"/proc/self/ns/net", "/proc/1/ns/net"} {
		if file, err := os.Open(path); errors.Is(err, os.ErrPermission) {
			continue // in a container
		} else if err == nil {
			file.Close()
		}
		if _, err := (Linker{}).Listen("k", path); !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), "host's") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if after := disciplines(t, "/proc/self/ns/net"); after != before {
		t.Errorf("the host's loopback interface had %q and has %q", before, after)
	}

	key, path, _ := listening(t)
	if _, err := (Linker{}).Listen("other", path); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second time in one namespace: %v", err)
	}
	if err := (Linker{}).Remove("other", path); err != nil {
		t.Error(err)
	}
	if got := caught(t, path, "127.0.0.1:80", 0); got != "caught 127.0.0.1:80" {
		t.Errorf("the first one's then gives %q", got)
	}
	if err := (Linker{}).Remove(key, path); err != nil {
		t.Error(err)
	}
}
