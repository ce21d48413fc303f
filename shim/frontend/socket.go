package frontend

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// connectTimeout is how long a shim may take to accept a connection.
const connectTimeout = 500 * time.Millisecond

const unixScheme = "unix://"

// socketPath is where the shim of a group serves: containerd's own rule, so
// its address never depends on who asks.
func socketPath(dir, containerdAddress, namespace, group string) string {
	sum := sha256.Sum256([]byte(filepath.Join(containerdAddress, namespace, group)))
	return filepath.Join(dir, fmt.Sprintf("%x", sum))
}

// listen makes the socket. It returns nil when a shim serves it already; a
// socket that nobody serves is replaced.
func listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	for range 3 { // others may be doing the same
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			// The socket is the serving process's, which inherits it.
			l.SetUnlinkOnClose(false)
			if err := os.Chmod(path, 0o600); err != nil {
				return nil, errors.Join(err, l.Close(), os.Remove(path))
			}
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
		if served(path) {
			return nil, nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("replace stale socket: %w", err)
		}
	}
	return nil, fmt.Errorf("socket %s is made and removed again by somebody else", path)
}

// served says whether a process accepts connections on a socket, given by its
// path or address.
func served(address string) bool {
	path := strings.TrimPrefix(strings.TrimSpace(address), unixScheme)
	if path == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// removeSocket removes the socket of a shim that is gone.
func removeSocket(address string) {
	if path, ok := strings.CutPrefix(strings.TrimSpace(address), unixScheme); ok {
		_ = os.Remove(path)
	}
}
