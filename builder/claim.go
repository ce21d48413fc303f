package builder

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"containerd-shim-uni/builder/flock"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// Files in a container's directory.
const (
	claimLock  = "owner.lock"
	recordFile = "record.json"
)

// unclaimed is how old a container's directory is that nobody ever claimed, and
// that is being made no more.
const unclaimed = time.Hour

// record says what a container's directory is for.
type record struct {
	// Bundle is the container's, which its client removes when it is deleted.
	Bundle string `json:"bundle"`
	// Pins are paths: while all are there, the directory has what is needed.
	Pins []string `json:"pins,omitempty"`
	// Layer is where what the container wrote is kept, if it is.
	Layer *unikernel.Layer `json:"layer,omitempty"`
}

// Claim says that a container's directory is in use by this process, until it ends
// or calls release, and after that as long as the bundle is there. Others are
// abandoned: see Sweep.
func (s *Store) Claim(dir, bundle string) (release func(), err error) {
	lock, err := flock.Try(filepath.Join(dir, claimLock))
	if err == nil && lock == nil {
		err = ErrInUse
	}
	if err == nil {
		if err = writeRecord(dir, func(r *record) { r.Bundle = bundle }); err != nil {
			lock.Unlock()
		}
	}
	if err != nil {
		return nil, wrap("claim", dir, err)
	}
	return lock.Unlock, nil
}

// Pin says that a container's directory, although nobody claims it, holds what will
// be asked for as long as all of paths are there.
func (s *Store) Pin(dir string, paths []string) error {
	return wrap("pin", dir, writeRecord(dir, func(r *record) { r.Pins = paths }))
}

func readRecord(dir string) (r record, err error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

func writeRecord(dir string, change func(*record)) error {
	r, err := readRecord(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	change(&r)
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, recordFile)
	if err := os.WriteFile(name+tempSuffix, data, 0o600); err != nil {
		return err
	}
	return os.Rename(name+tempSuffix, name)
}

// Recover saves the layer of a container whose machine is gone, if that has not
// been done. dir is the container's directory; nothing need be there.
func (s *Store) Recover(ctx context.Context, dir string) error {
	r, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Layer == nil {
		return nil
	}
	if err != nil {
		return wrap("recover layer of", dir, err)
	}
	return wrap("recover layer of", dir, s.recover(ctx, *r.Layer))
}

func (s *Store) recover(ctx context.Context, l unikernel.Layer) error {
	if _, err := os.Lstat(filepath.Join(l.Home, layerDisk)); errors.Is(err, fs.ErrNotExist) {
		return nil // with its snapshot
	}
	lock, err := openHome(l)
	if errors.Is(err, ErrInUse) {
		return nil // its next container has it
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	known, err := readState(l)
	if err != nil || !known.Unsaved {
		return err
	}
	if written(l, known) {
		s.opts.Log("%s: its container did not end as it should; what its machine had not written yet is missing", l.Upper)
	}
	return s.save(ctx, l)
}

// Abandoned is the directory of a container that has neither a machine nor
// somebody who will remove it.
type Abandoned struct {
	Dir string
	// Bytes is what removing it gives back to the host.
	Bytes int64
}

// containersDir is where containers' directories are.
func (s *Store) containersDir() string { return filepath.Join(filepath.Dir(s.dir), "containers") }

// Abandoned lists what crashes of the host have left.
func (s *Store) Abandoned() ([]Abandoned, error) {
	entries, err := os.ReadDir(s.containersDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Abandoned
	var commands string
	for _, e := range entries {
		dir := filepath.Join(s.containersDir(), e.Name())
		if !e.IsDir() || !isAbandoned(dir, s.now()) {
			continue
		}
		if commands == "" {
			commands = processes()
		}
		if !strings.Contains(commands, dir+"/") {
			all = append(all, Abandoned{dir, freedBytes(dir)})
		}
	}
	return all, nil
}

// isAbandoned says that nobody will remove a container's directory.
func isAbandoned(dir string, now time.Time) bool {
	r, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		st, err := os.Lstat(dir)
		return err == nil && now.Sub(st.ModTime()) > unclaimed
	}
	if err != nil {
		return false
	}
	if _, err := os.Lstat(r.Bundle); !errors.Is(err, fs.ErrNotExist) {
		return false // containerd will have it deleted
	}
	if r.pinned() {
		return false
	}
	lock, err := flock.Try(filepath.Join(dir, claimLock))
	if lock != nil {
		lock.Unlock()
	}
	return err == nil && lock != nil
}

func (r record) pinned() bool {
	for _, p := range r.Pins {
		if _, err := os.Lstat(p); err != nil {
			return false
		}
	}
	return len(r.Pins) > 0
}

// processes returns the command lines of all processes.
func processes() string {
	var all strings.Builder
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil { // it may have ended
			all.Write(data)
			all.WriteByte('\n')
		}
	}
	all.WriteByte('\n')
	return all.String()
}

// freedBytes is what files occupy that have no other name.
func freedBytes(dir string) (n int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, e.Name()), &st) == nil && st.Nlink == 1 {
			n += st.Blocks * 512 // st_blocks, see stat(2)
		}
	}
	return n
}

// Sweep saves what is to be saved of abandoned containers, and removes their
// directories.
func (s *Store) Sweep(ctx context.Context) error {
	freed, err := s.sweep(ctx)
	if freed.Files > 0 {
		s.opts.Log("removed what a crash of the host had left of %d containers, %d MiB", freed.Files, freed.Bytes>>20)
	}
	return wrap("sweep", s.containersDir(), err)
}

func (s *Store) sweep(ctx context.Context) (Freed, error) {
	var freed Freed
	all, err := s.Abandoned()
	for _, a := range all {
		if rerr := s.Recover(ctx, a.Dir); rerr != nil {
			s.opts.Log("%v", rerr)
		}
		if rerr := os.RemoveAll(a.Dir); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		freed.Files++
		freed.Bytes += a.Bytes
	}
	return freed, err
}
