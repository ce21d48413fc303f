package builder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	lockSuffix = ".lock"
	tempSuffix = ".tmp"
)

// lockPath is the lock between linking from the cache and removing from it.
func (s *Store) lockPath() string { return filepath.Join(s.dir, "lock") }

// fileLock is a held flock(2). It ends with the process at the latest.
type fileLock struct{ f *os.File }

// lockFile takes a lock, shared (LOCK_SH) or exclusive (LOCK_EX), and waits for
// it. The holders of these locks never wait for anything themselves.
func lockFile(path string, how int) (*fileLock, error) {
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
	return &fileLock{f}, nil
}

// tryLock takes an exclusive lock on a file that its holder removes; nil when
// another holds it.
func tryLock(path string) (*fileLock, error) {
	l, err := lockFile(path, unix.LOCK_EX|unix.LOCK_NB)
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
		l.unlock()
		return nil, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(mine, there)) {
		l.unlock()
		return nil, nil
	}
	if err != nil {
		l.unlock()
		return nil, err
	}
	return l, nil
}

// unlock releases explicitly: a child process between fork and exec may hold a
// copy of the descriptor.
func (l *fileLock) unlock() {
	_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	l.f.Close()
}

// remove removes the lock's file and releases the lock.
func (l *fileLock) remove() {
	os.Remove(l.f.Name())
	l.unlock()
}
