package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/builder/changes"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// Directories in a layer's home: the one that becomes the layer's, and the one that
// was, until Settle removes it.
const layerNext, layerOld = "next", "old"

// Save makes a layer's directory equal to what is on its disk: at once, so that
// whatever dies meanwhile, the directory is as it was or as it will be. No machine
// may use the disk, and the layer must be the caller's, by Layer. A disk whose
// machine crashed is saved as far as it was written. Where no machine wrote to it,
// the directory stays as it is, with what others put there meanwhile.
func (s *Store) Save(ctx context.Context, l unikernel.Layer) error {
	return wrap("save layer", l.Upper, s.save(ctx, l))
}

func (s *Store) save(ctx context.Context, l unikernel.Layer) (err error) {
	known, err := readState(l)
	if err != nil {
		return err
	}
	if known.Unsaved && !written(l, known) {
		return writeState(l, state{Upper: known.Upper, Boot: bootID()})
	}
	next := filepath.Join(l.Home, layerNext)
	if err := removeAll(next); err != nil { // of one that was killed
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(next)) }()
	if err := s.readLayer(filepath.Join(l.Home, layerDisk), func(c *changes.Layer) error { return c.Write(ctx, next) }); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, l.Upper, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: next, New: l.Upper, Err: err}
	}
	// Removing it can take seconds, and somebody waits. If there is still an older one,
	// this one is removed here.
	_ = os.Rename(next, filepath.Join(l.Home, layerOld))
	digest, _, err := survey(ctx, l.Upper)
	if err != nil {
		return err
	}
	return writeState(l, state{Upper: digest, Boot: bootID()})
}

// Merge does to the directory dir, the root file system of a container, what is on
// the disk of its layer. No machine may use the disk.
func (s *Store) Merge(ctx context.Context, disk, dir string) error {
	return wrap("merge layer into", dir, s.readLayer(disk, func(c *changes.Layer) error { return c.Merge(ctx, dir) }))
}

func (s *Store) readLayer(disk string, read func(*changes.Layer) error) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	if used, err := lockedByMachine(f); used || err != nil {
		return errors.Join(err, fmt.Errorf("%s: %w by a machine", disk, ErrInUse))
	}
	c, err := changes.Open(f)
	if err != nil {
		return err
	}
	return read(c)
}

// lockedByMachine says whether QEMU has the file open: it locks bytes of the disks
// that it writes to (raw_check_lock_bytes in QEMU's block/file-posix.c).
func lockedByMachine(f *os.File) (bool, error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK} // from the beginning to the end
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	return err == nil && lock.Type != unix.F_UNLCK, err
}

// Settle waits until what was saved has reached the host's disk: from then on the
// layer's directory is believed also after a crash of the host. Then it removes what
// Save has replaced. The layer need not be the caller's any more.
func (s *Store) Settle(l unikernel.Layer) error {
	return wrap("settle layer", l.Upper, errors.Join(settle(l), removeAll(filepath.Join(l.Home, layerOld))))
}

func settle(l unikernel.Layer) error {
	known, err := readState(l)
	if err != nil || known.Upper == "" || isSynced(l, known) {
		return err
	}
	d, err := os.Open(l.Home)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	return os.WriteFile(filepath.Join(l.Home, layerSynced), []byte(known.Upper), 0o600)
}

// isSynced says whether Settle was called for what is known.
func isSynced(l unikernel.Layer, known state) bool {
	digest, err := os.ReadFile(filepath.Join(l.Home, layerSynced))
	return err == nil && string(digest) == known.Upper
}

// bootID names the time since the host was started.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
