package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder/flock"
)

const (
	lockSuffix = ".lock"
	tempSuffix = ".tmp"
)

// pollInterval is how often a caller looks whether another one's build is
// done. flock has no wait that a context could end.
const pollInterval = 5 * time.Millisecond

// buildFunc writes a file's contents to an empty file.
type buildFunc func(context.Context, *os.File) error

// obtain links the cached file path to dst and builds it first if need be.
func (s *Store) obtain(ctx context.Context, path, dst string, build buildFunc) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if hit, err := s.link(path, dst); hit || err != nil {
			return err
		}
		key, err := flock.Try(path + lockSuffix)
		if err != nil {
			return err
		}
		if key == nil {
			if err := sleep(ctx, pollInterval); err != nil {
				return err
			}
			continue
		}
		return s.buildLocked(ctx, key, path, dst, build)
	}
}

// buildLocked builds path and links it to dst. It owns the lock of path's key.
func (s *Store) buildLocked(ctx context.Context, key *flock.Lock, path, dst string, build buildFunc) error {
	defer key.Remove()
	if hit, err := s.link(path, dst); hit || err != nil {
		return err // built since we looked
	}
	s.removeStale(path)
	if err := s.build(ctx, path, dst, build); err != nil {
		return err
	}
	if _, err := s.evict(s.opts.MaxSize); err != nil {
		s.opts.Log("evict from %s: %v", s.dir, err)
	}
	return nil
}

// build makes the file under a temporary name, links it to dst so that it is in
// use from the first moment, and publishes it.
func (s *Store) build(ctx context.Context, path, dst string, build buildFunc) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+tempSuffix)
	if err != nil {
		return err
	}
	linked := false
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
			if linked {
				os.Remove(dst)
			}
		}
	}()
	if err := build(ctx, f); err != nil {
		return err
	}
	if err := s.protect(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := linkTo(f.Name(), dst); err != nil {
		return err
	}
	linked = true
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// link links a cached file to dst and marks it as used. It reports false when
// the file is not cached.
func (s *Store) link(path, dst string) (bool, error) {
	lock, err := flock.Shared(s.lockPath())
	if err != nil {
		return false, err
	}
	err = linkTo(path, dst)
	lock.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		_, derr := os.Stat(filepath.Dir(dst))
		return false, derr // nil: it is path that is missing
	}
	if err != nil {
		return false, err
	}
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dst, []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, errors.Join(fmt.Errorf("set time: %w", err), os.Remove(dst))
	}
	return true, nil
}

func linkTo(path, dst string) error {
	err := os.Link(path, dst)
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("%w: the cache and the containers' directories must be on one file system", err)
	}
	return err
}

// removeStale removes what killed builders left in the cache. The caller holds
// the lock of the cached file held, if that is not empty.
func (s *Store) removeStale(held string) {
	for _, dir := range []string{s.rootsDir(), s.templatesDir(), s.volumesDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			s.opts.Log("clean %s: %v", dir, err)
			continue
		}
		for _, e := range entries {
			if err := removeStaleFile(dir, e.Name(), held); err != nil {
				s.opts.Log("clean %s: %v", dir, err)
			}
		}
	}
}

// removeStaleFile removes a temporary or a lock file of a key that nobody works
// on; other files stay.
func removeStaleFile(dir, name, held string) error {
	isTemp := strings.HasSuffix(name, tempSuffix)
	if !isTemp && !strings.HasSuffix(name, lockSuffix) {
		return nil
	}
	digest, rest, _ := strings.Cut(name, ".")
	suffix, _, _ := strings.Cut(rest, ".")
	file := filepath.Join(dir, digest+"."+suffix)
	if file == held && !isTemp {
		return nil
	}
	if file != held {
		key, err := flock.Try(file + lockSuffix)
		if err != nil || key == nil {
			return err
		}
		defer key.Remove()
	}
	if isTemp {
		return os.RemoveAll(filepath.Join(dir, name))
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// isFull says whether an error means that the disk or a quota has no room.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
