package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"containerd-shim-uni/builder/flock"
	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// Files in a layer's home.
const (
	layerDisk  = "layer.ext4"
	layerState = "state.json"
	layerLock  = "lock"
	// layerSynced has the digest of the directory that would be found after a crash
	// of the host.
	layerSynced = "synced"
)

// ErrInUse says that another container has the layer.
var ErrInUse = errors.New("the snapshot is in use")

// state is what is known of a layer's disk, beside it.
type state struct {
	// Upper is the digest of the directory when the disk last held the same.
	Upper string `json:"upper"`
	// Unsaved says that a machine was given the disk since, and may have written to it.
	Unsaved bool `json:"unsaved"`
	// Changed is when the disk's file was written last, before it was given to that
	// machine: in ns since 1970.
	Changed int64 `json:"changed,omitempty"`
	// Boot is the boot of the host in which this was found.
	Boot string `json:"boot"`
}

// directoryCounts says whether the directory is to be believed where it differs
// from the disk: somebody changed it since. Else it is the disk that has more.
func directoryCounts(l unikernel.Layer, st state) bool {
	switch {
	case st.Upper == "": // no machine had the disk yet
		return true
	case st.Unsaved:
		return !written(l, st)
	}
	return st.Boot == bootID() || isSynced(l, st)
}

// written says whether a machine has written to the disk since it was saved: one that
// was never started has not. After a crash of the host the file's time does not tell,
// and what was synced counts.
func written(l unikernel.Layer, st state) bool {
	if !st.Unsaved {
		return false
	}
	changed, err := diskChanged(l)
	return err != nil || changed != st.Changed || st.Boot != bootID()
}

// diskChanged is when a layer's disk was written to last, in ns since 1970.
func diskChanged(l unikernel.Layer) (int64, error) {
	st, err := os.Lstat(filepath.Join(l.Home, layerDisk))
	if err != nil {
		return 0, err
	}
	return st.ModTime().UnixNano(), nil
}

// CanKeep says whether a container's layer can have its disk in its home: it must
// be on the file system, and in the mount, of dir, the container's directory.
func (s *Store) CanKeep(l unikernel.Layer, dir string) bool {
	probe := filepath.Join(dir, ".probe")
	lock, err := openHome(l)
	if err != nil {
		return false
	}
	defer lock.Unlock()
	if err := os.Link(filepath.Join(l.Home, layerLock), probe); err != nil {
		return false
	}
	return os.Remove(probe) == nil
}

// openHome makes a layer's home, and locks it: the layer is used by one at a time.
func openHome(l unikernel.Layer) (*flock.Lock, error) {
	if err := os.Mkdir(l.Home, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	lock, err := flock.Try(filepath.Join(l.Home, layerLock))
	if err == nil && lock == nil {
		err = fmt.Errorf("%s: %w by another container", filepath.Dir(l.Home), ErrInUse)
	}
	return lock, err
}

// Layer makes dst the disk of what a container writes, as Writable does, with what
// is in the layer already. The disk is kept in the layer's home and holds what its
// last machine wrote, unless the files of the layer have been changed since: they
// count then. The layer is the caller's until unlock is called, or its process
// ends; meanwhile it is ErrInUse for others.
func (s *Store) Layer(ctx context.Context, l unikernel.Layer, dst string, sizeBytes int64) (unlock func(), err error) {
	lock, err := openHome(l)
	if err == nil {
		if err = s.layer(ctx, l, dst, sizeBytes); err != nil {
			lock.Unlock()
		}
	}
	if err != nil {
		return nil, wrap("layer", l.Upper, err)
	}
	return lock.Unlock, nil
}

func (s *Store) layer(ctx context.Context, l unikernel.Layer, dst string, size int64) error {
	digest, files, err := survey(ctx, l.Upper)
	if err != nil {
		return err
	}
	known, err := readState(l)
	if err != nil {
		return err
	}
	next := state{Upper: digest, Unsaved: true, Boot: bootID()}
	disk := filepath.Join(l.Home, layerDisk)
	if next.Changed, err = diskChanged(l); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || known.Upper != digest && directoryCounts(l, known) { // it is replaced, if it is there
		if err := s.newLayer(ctx, l, disk, size, files); err != nil {
			return err
		}
		if next.Changed, err = diskChanged(l); err != nil {
			return err
		}
	} else {
		if known.Upper != digest {
			s.opts.Log("%s: files that were put there since its machine crashed are not seen: what the machine wrote counts", l.Upper)
		}
		if written(l, known) { // and is not saved yet, also if this machine writes nothing
			next.Changed, next.Boot = known.Changed, known.Boot
		}
	}
	if err := writeState(l, next); err != nil {
		return err
	}
	if err := writeRecord(filepath.Dir(dst), func(r *record) { r.Layer = &l }); err != nil {
		return err
	}
	return linkTo(disk, dst)
}

// survey returns a digest of a layer's files, and how many there are.
func survey(ctx context.Context, upper string) (digest string, files int, err error) {
	known, err := hostfs.Look(ctx, upper, math.MaxInt64)
	if err != nil {
		return "", 0, err
	}
	return known.Digest(), known.Files - 1, nil // without the top
}

// newLayer makes the disk of a layer with so many files. Whatever dies meanwhile, the file is whole, or is
// not there.
func (s *Store) newLayer(ctx context.Context, l unikernel.Layer, disk string, size int64, files int) (err error) {
	name := disk + tempSuffix
	if err := removeAll(name, name+".template", name+".tree"); err != nil { // of one that was killed
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeAll(name, name+".tree"))
		}
	}()
	if files == 0 {
		err = s.writable(ctx, name, size)
	} else {
		err = s.seed(ctx, l, name, size, files)
	}
	if err != nil {
		return err
	}
	// What a guest has synced must be found in it after a crash of the host.
	if err := syncFile(name); err != nil {
		return err
	}
	if err := os.Rename(name, disk); err != nil {
		return err
	}
	return syncDir(l.Home)
}

// seed makes a disk that holds the layer's files.
func (s *Store) seed(ctx context.Context, l unikernel.Layer, image string, size int64, files int) error {
	size, err := layerSize(size)
	if err != nil {
		return err
	}
	if err := fits(size, files); err != nil {
		return err
	}
	tree := image + ".tree"
	if err := templateTree(tree); err != nil {
		return err
	}
	err = s.newFile(image, func(f *os.File) error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		return inMounts(func() error {
			if err := unix.Mount(l.Upper, filepath.Join(tree, "upper"), "", unix.MS_BIND, ""); err != nil {
				return &os.PathError{Op: "bind", Path: l.Upper, Err: err}
			}
			return s.format(ctx, image, size, files, tree)
		})
	})
	return errors.Join(err, removeAll(tree))
}

// inMounts runs f, and the programs that it starts, with mounts of their own,
// which end with it.
func inMounts(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the function
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func readState(l unikernel.Layer) (state, error) {
	var st state
	data, err := os.ReadFile(filepath.Join(l.Home, layerState))
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	return st, err
}

func writeState(l unikernel.Layer, st state) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	name := filepath.Join(l.Home, layerState)
	if err := os.WriteFile(name+tempSuffix, data, 0o600); err != nil {
		return err
	}
	if err := syncFile(name + tempSuffix); err != nil {
		return err
	}
	return os.Rename(name+tempSuffix, name)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func removeAll(paths ...string) error {
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}
