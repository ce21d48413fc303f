package builder

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/builder/flock"
)

// Entry is one cached file.
type Entry struct {
	// Kind is "root", "disk" (one to boot from), "volume" (of a bind mount), "file"
	// (of an image that brings its kernel), "copy" (of a finished disk) or
	// "template".
	Kind string
	// Digest names the file.
	Digest string
	// Size is the file's apparent size and Allocated what it occupies, in bytes.
	Size, Allocated int64
	// Users is the number of containers that use it.
	Users int
	// Used is when a container last asked for it.
	Used time.Time

	path string
}

// Freed says what was removed.
type Freed struct {
	Files int
	Bytes int64
}

// Entries lists the cache, most recently used first.
func (s *Store) Entries() ([]Entry, error) {
	roots, err := listEntries(s.rootsDir(), "root", ".erofs")
	if err != nil {
		return nil, err
	}
	disks, err := listEntries(s.rootsDir(), "disk", diskSuffix)
	if err != nil {
		return nil, err
	}
	copies, err := listEntries(s.rootsDir(), "copy", copySuffix)
	if err != nil {
		return nil, err
	}
	templates, err := listEntries(s.templatesDir(), "template", ".ext4")
	if err != nil {
		return nil, err
	}
	files, err := listEntries(s.rootsDir(), "file", fileSuffix)
	if err != nil {
		return nil, err
	}
	volumes, err := listEntries(s.volumesDir(), "volume", diskSuffix)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(roots, disks, files, copies, volumes, templates)
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(b.Used.Compare(a.Used), strings.Compare(a.Digest, b.Digest))
	})
	return all, nil
}

func listEntries(dir, kind, suffix string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, f := range files {
		digest, ok := strings.CutSuffix(f.Name(), suffix)
		if !ok {
			continue
		}
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		st := info.Sys().(*syscall.Stat_t)
		out = append(out, Entry{
			Kind: kind, Digest: digest, path: filepath.Join(dir, f.Name()),
			Size: st.Size, Allocated: st.Blocks * 512, // st_blocks, see stat(2)
			Users: int(st.Nlink) - 1, Used: info.ModTime(),
		})
	}
	return out, nil
}

// Prune removes what killed builders and crashes of the host left, and unused
// files, least recently used first, until at most keep allocated bytes remain.
func (s *Store) Prune(keep int64) (Freed, error) {
	s.removeStale("")
	swept, err := s.sweep(context.Background())
	freed, everr := s.evict(keep)
	return Freed{freed.Files + swept.Files, freed.Bytes + swept.Bytes}, errors.Join(err, everr)
}

// evict removes unused files, least recently used first, until at most keep
// bytes remain or all are in use.
func (s *Store) evict(keep int64) (Freed, error) {
	doomed, freed, err := s.takeOut(keep)
	// Freeing the blocks of a large file takes a while: without the lock.
	for _, path := range doomed {
		if rerr := os.Remove(path); !errors.Is(rerr, fs.ErrNotExist) { // or another one cleaned up
			err = errors.Join(err, rerr)
		}
	}
	return freed, err
}

// takeOut renames what leaves the cache to temporary names, which it returns.
func (s *Store) takeOut(keep int64) (doomed []string, freed Freed, err error) {
	lock, err := flock.Exclusive(s.lockPath())
	if err != nil {
		return nil, Freed{}, err
	}
	defer lock.Unlock()
	entries, err := s.Entries()
	if err != nil {
		return nil, Freed{}, err
	}
	var total int64
	for _, e := range entries {
		total += e.Allocated
	}
	for _, e := range slices.Backward(entries) {
		if total <= keep {
			break
		}
		if e.Users > 0 {
			continue
		}
		name := e.path + ".evicted" + tempSuffix
		if err := os.Rename(e.path, name); err != nil {
			return doomed, freed, err
		}
		doomed = append(doomed, name)
		total -= e.Allocated
		freed.Files++
		freed.Bytes += e.Allocated
	}
	return doomed, freed, nil
}
