package flock

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Lock is a held flock(2). It ends with the process at the latest.
type Lock struct{ f *os.File }

// Shared takes a lock on the file at path that others can share, and waits for
// it. The file is made if need be and stays.
func Shared(path string) (*Lock, error) { return take(path, unix.LOCK_SH) }

// Exclusive is Shared for a lock that nobody can share.
func Exclusive(path string) (*Lock, error) { return take(path, unix.LOCK_EX) }

func take(path string, how int) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
	return &Lock{f}, nil
}

// Try takes an exclusive lock on a file that its holder removes; nil when
// another holds it.
func Try(path string) (*Lock, error) {
	l, err := take(path, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// The holder before us may have removed the file since we opened it; the
	// path then names nothing, or a file that a third one locks.
	mine, err := l.f.Stat()
	if err != nil {
		l.Unlock()
		return nil, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(mine, there)) {
		l.Unlock()
		return nil, nil
	}
	if err != nil {
		l.Unlock()
		return nil, err
	}
	return l, nil
}

// Unlock releases explicitly: a child process between fork and exec may hold a
// copy of the descriptor.
func (l *Lock) Unlock() {
	_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	l.f.Close()
}

// Remove removes the lock's file and releases the lock.
func (l *Lock) Remove() {
	os.Remove(l.f.Name())
	l.Unlock()
}
