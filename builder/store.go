package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"containerd-shim-uni/builder/erofs"
	"containerd-shim-uni/unikernel"
)

// rootFormat names what a root's bytes depend on beside the files. It changes
// when package erofs writes other bytes for the same tree.
const rootFormat = "erofs 1"

// Options configure a Store. The zero value is a cache that keeps nothing
// unused and makes files for root.
type Options struct {
	// MaxSize bounds the cache in allocated bytes. Files in use count, but are
	// never removed.
	MaxSize int64
	// UID and GID are the user and group that QEMU runs as; 0 or less is root.
	// Shared files then belong to root and are readable by the group, so that
	// no QEMU can change what others read; a container's own layer belongs to
	// the user. Both matter only where libvirt does not set owners itself.
	UID, GID int
	// Log takes what went wrong without harm for the caller, such as an
	// eviction that failed; nil discards it.
	Log func(format string, args ...any)
}

// Store is the cache of disks below one directory. Its methods may be called
// concurrently, by any number of processes.
type Store struct {
	dir  string // the cache
	opts Options
	mke2 string // path of mke2fs, empty when it is not installed

	// writeTree is erofs.Write and now time.Now; tests replace them.
	writeTree writeFunc
	now       func() time.Time
}

// Open returns the Store below dir, which is created if need be, readable by
// root alone but for passing through.
func Open(dir string, opts Options) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("open store: %q is not an absolute path", dir)
	}
	s := &Store{dir: filepath.Join(dir, "cache"), opts: opts, mke2: findMke2fs(), writeTree: erofs.WriteDir, now: time.Now}
	if s.opts.Log == nil {
		s.opts.Log = func(string, ...any) {}
	}
	for _, d := range []string{dir, s.dir, s.rootsDir(), s.templatesDir(), s.volumesDir()} {
		if err := makeDir(d); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	return s, nil
}

// lockPath is the lock between linking from the cache and removing from it.
func (s *Store) lockPath() string     { return filepath.Join(s.dir, "lock") }
func (s *Store) rootsDir() string     { return filepath.Join(s.dir, "roots") }
func (s *Store) templatesDir() string { return filepath.Join(s.dir, "templates") }
func (s *Store) volumesDir() string   { return filepath.Join(s.dir, "volumes") }

// makeDir makes a directory through which QEMU's user may pass.
func makeDir(path string) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err != nil {
		return err
	}
	err = os.Mkdir(path, 0o711)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o711) // whatever the umask
}

// Root makes dst the disk of a container's root file system: a read-only EROFS
// image, raw. dst must not exist, on the Store's own file system.
//
// A root whose key is cached is linked, in well under a millisecond. Else its
// files are opened and written, by one caller for each key; others with the
// same key wait for it. A root without a key is built for dst alone. When the
// disk is full, unused files leave the cache and the root is written once
// more. After an error dst does not exist.
//
// A root that is a finished disk is taken as it is, and then has its format.
func (s *Store) Root(ctx context.Context, root unikernel.Rootfs, dst string) error {
	if root.Disk != nil {
		return wrap("root disk", dst, s.adopt(ctx, root, erofsName, dst, checkRoot))
	}
	build := func(ctx context.Context, f *os.File) error { return s.writeRoot(ctx, root, f, s.writeTree) }
	if root.Key == "" {
		return wrap("build root disk", dst, s.private(ctx, dst, build))
	}
	path := filepath.Join(s.rootsDir(), digest(rootFormat, root.Key)+".erofs")
	return wrap("root disk", dst, s.obtain(ctx, path, dst, build))
}

// private builds a file that is never shared, at dst itself.
func (s *Store) private(ctx context.Context, dst string, build buildFunc) error {
	return create(dst, func(f *os.File) error {
		if err := build(ctx, f); err != nil {
			return err
		}
		return s.protect(f)
	})
}

// create makes a file that is not there yet; after an error it is not there
// either.
func create(dst string, write func(*os.File) error) (err error) {
	f, err := os.OpenFile(dst, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(dst)
		}
	}()
	return write(f)
}

// writeFunc writes the tree below dir to an empty file.
type writeFunc func(ctx context.Context, f *os.File, dir string) error

// writeRoot opens a root's files and has them written to f.
func (s *Store) writeRoot(ctx context.Context, root unikernel.Rootfs, f *os.File, write writeFunc) (err error) {
	dir, closeRoot, err := root.Open(ctx)
	if err != nil {
		return fmt.Errorf("open root file system: %w", err)
	}
	defer func() {
		if cerr := closeRoot(); cerr != nil {
			err = errors.Join(err, fmt.Errorf("close root file system: %w", cerr))
		}
	}()
	return s.makeRoom(f, func() error { return write(ctx, f, dir) })
}

// makeRoom has f, an empty file, written. When the disk is full, unused files
// leave the cache, and it is written once more.
func (s *Store) makeRoom(f *os.File, write func() error) error {
	err := write()
	if !isFull(err) {
		return err
	}
	if freed, perr := s.evict(0); perr != nil || freed.Files == 0 {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	return write()
}

// protect makes a shared or read-only file readable by root and QEMU only.
func (s *Store) protect(f *os.File) error {
	mode := os.FileMode(0o400)
	if s.opts.GID > 0 {
		mode = 0o440
		if err := f.Chown(-1, s.opts.GID); err != nil {
			return err
		}
	}
	return f.Chmod(mode)
}

// digest is a file name for whatever a file's contents depend on.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func wrap(what, path string, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, path, err)
	}
	return nil
}
