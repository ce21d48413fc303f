package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"containerd-shim-uni/builder/hostfs"
	"containerd-shim-uni/builder/tfs"
	"containerd-shim-uni/builder/tree"
	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

const (
	// volumeFormat is to a shared volume what rootFormat is to a root.
	volumeFormat = "tfs volume 1"
	// volumeSpare is what a file system needs of a disk beside what its guest
	// writes: extensions of the log, and those kept for its next ones.
	volumeSpare = 4 << 20
	// readTries is how often a tree is read that changes meanwhile.
	readTries = 3
)

// makeVolumes makes the disks of mounts in a container's directory. After an
// error those that were made are still there.
func (s *Store) makeVolumes(ctx context.Context, dir string, mounts []mount, spare int64) error {
	keys := map[string]int{}
	for i := range mounts {
		m := &mounts[i]
		name := "volume-" + strconv.Itoa(i)
		m.label = name
		m.disk = unikernel.Disk{Path: filepath.Join(dir, name+diskSuffix), Format: "raw", Serial: name,
			ReadOnly: m.ReadOnly, Ephemeral: !m.ReadOnly}
		// A layer can be made again, for a machine that has not run yet.
		if err := os.Remove(m.disk.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err := s.makeVolume(ctx, m, keys, spare)
		if isFull(err) {
			err = fmt.Errorf("%w: %s has no room for the copy: free some, mount less, or use the guest \"linux\", which needs none", err, s.dir)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", describe(m.Volume), err)
		}
	}
	return nil
}

// makeVolume makes the disk of one. keys counts the shared volumes of the
// machine by key: each needs a label of its own.
func (s *Store) makeVolume(ctx context.Context, m *mount, keys map[string]int, spare int64) error {
	if m.Source == "" {
		return s.newVolume(ctx, m, &tree.Node{Mode: unix.S_IFDIR | 0o755}, spare)
	}
	path, done, err := hostfs.View(m.Source, m.Recursive)
	if err != nil {
		return err
	}
	defer done()
	known, err := hostfs.Look(ctx, path, m.MaxSource)
	if err != nil {
		return err
	}
	if err := s.tell(m, known); err != nil {
		return err
	}
	if m.ReadOnly {
		if key := known.Key(s.now()); key != "" {
			if err := s.sharedVolume(ctx, m, path, key, keys); !isChanged(err) {
				return err
			}
		}
		return s.private(ctx, m.disk.Path, s.copying(path, m))
	}
	return create(m.disk.Path, func(f *os.File) error {
		if err := s.copying(path, m)(ctx, f); err != nil {
			return err
		}
		return s.grow(f, m, spare)
	})
}

// tell refuses a source that is too large, and logs what a container will not
// find as it is on the host.
func (s *Store) tell(m *mount, known *hostfs.Survey) error {
	if known.Bytes > m.MaxSource {
		least := ""
		if known.Partial {
			least = "at least "
		}
		return fmt.Errorf("%w: the source has %s%d MiB in %d files, and this guest gets a copy of at most %d MiB: "+
			"mount a part of it, raise nanos.volume_max_size in the configuration, or use the guest \"linux\", which needs no copy",
			unikernel.ErrInvalid, least, (known.Bytes+1<<20-1)>>20, known.Files, m.MaxSource>>20)
	}
	if known.Special > 0 {
		s.opts.Log("%s: sockets, devices and pipes are left out, %d of them: %s", describe(m.Volume), known.Special, strings.Join(known.Examples, ", "))
	}
	if !m.ReadOnly {
		s.opts.Log("%s: the container writes to a copy, which is discarded with it", describe(m.Volume))
	}
	return nil
}

// sharedVolume gets a volume from the cache, where it is put first if need be.
// A source that changes meanwhile is an error of isChanged.
func (s *Store) sharedVolume(ctx context.Context, m *mount, path, key string, keys map[string]int) error {
	nth := strconv.Itoa(keys[key])
	keys[key]++
	name := digest(volumeFormat, key, m.file, nth)
	m.label = name[:24] // of at most 31
	return s.obtain(ctx, filepath.Join(s.volumesDir(), name+diskSuffix), m.disk.Path, func(ctx context.Context, f *os.File) error {
		if err := hostfs.Settle(ctx, path); err != nil {
			return err
		}
		if err := s.writeVolume(ctx, f, path, m); err != nil {
			return err
		}
		after, err := hostfs.Look(ctx, path, m.MaxSource)
		if err == nil && after.Key(s.now()) != key {
			err = fmt.Errorf("%s: %w", m.Source, hostfs.ErrChanged)
		}
		return err
	})
}

// isChanged says whether an error comes of a source that changes while it is
// read: a file has another size, or is gone.
func isChanged(err error) bool {
	return errors.Is(err, hostfs.ErrChanged) || errors.Is(err, fs.ErrNotExist)
}

// copying writes a volume's files, and again where they change meanwhile.
func (s *Store) copying(path string, m *mount) buildFunc {
	return func(ctx context.Context, f *os.File) error {
		var err error
		for range readTries {
			if err = f.Truncate(0); err != nil {
				return err
			}
			err = s.writeVolume(ctx, f, path, m)
			if !isChanged(err) {
				return err
			}
		}
		return fmt.Errorf("%w; it was tried %d times", err, readTries)
	}
}

// writeVolume writes a volume's files to an empty file.
func (s *Store) writeVolume(ctx context.Context, f *os.File, path string, m *mount) error {
	return s.makeRoom(f, func() error {
		root, err := readSource(ctx, path, m.file)
		if err != nil {
			return err
		}
		return tfs.Volume{Label: m.label}.Write(ctx, f, root)
	})
}

// readSource reads the metadata of a directory, or of a file as the one in a
// directory.
func readSource(ctx context.Context, path, file string) (*tree.Node, error) {
	if file == "" {
		return tree.Scan(ctx, path)
	}
	n, err := tree.File(path)
	if err != nil {
		return nil, err
	}
	return &tree.Node{Mode: unix.S_IFDIR | 0o755, Mtime: n.Mtime, MtimeNsec: n.MtimeNsec, Entries: []tree.Entry{{Name: file, Node: n}}}, nil
}

// newVolume makes a volume of a container's own.
func (s *Store) newVolume(ctx context.Context, m *mount, root *tree.Node, spare int64) error {
	return create(m.disk.Path, func(f *os.File) error {
		if err := (tfs.Volume{Label: m.label}).Write(ctx, f, root); err != nil {
			return err
		}
		return s.grow(f, m, spare)
	})
}

// grow gives a volume room for what its guest writes, and to QEMU.
func (s *Store) grow(f *os.File, m *mount, spare int64) error {
	if m.ReadOnly {
		return s.protect(f)
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if m.Size > 0 {
		spare = m.Size
	}
	size := (st.Size() + spare + volumeSpare + writableUnit - 1) / writableUnit * writableUnit
	if err := f.Truncate(size); err != nil {
		return err
	}
	return s.own(f)
}
