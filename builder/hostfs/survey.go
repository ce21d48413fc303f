package hostfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settled is how long ago a file must have changed to tell its next change
	// by its time: file systems count in steps of up to a second or two.
	settled = 3 * time.Second
	// maxSpecial is how many names of special files a Survey remembers.
	maxSpecial = 5
	// maxBeyond is how many files of a tree that is too large are counted.
	maxBeyond = 100_000
)

// Survey is what is known of a file or a directory of the host without reading
// any contents.
type Survey struct {
	// Bytes is what regular files hold, without the holes of large ones.
	Bytes int64
	// Files counts all names.
	Files int
	// Partial says that counting ended early, because there is too much.
	Partial bool
	// Special counts sockets, devices and pipes, Examples names a few.
	Special  int
	Examples []string

	digest hash.Hash
	newest time.Time
	honest bool // all file systems are of honestTypes
}

// honestTypes are file systems that give a file a new change time whenever its
// contents change, also by way of a mapping once its pages have been written
// back. tmpfs does not, nor can a network's or a layered file system be relied
// upon.
var honestTypes = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true,
}

// Look surveys a file, or a directory with all that it holds. It follows no
// symbolic link but what the path itself is. Beyond most bytes it does not look
// at everything.
func Look(ctx context.Context, path string, most int64) (*Survey, error) {
	s := &surveyor{ctx: ctx, most: most, systems: map[uint64]string{},
		Survey: Survey{digest: sha256.New(), honest: true}}
	if err := s.add(path, nil, ""); err != nil {
		return nil, err
	}
	return &s.Survey, nil
}

// Key names what was surveyed: two trees with the same key have the same
// contents. It is empty where that cannot be known, as when something changed
// just now. It holds for contents that were read after Settle and before a
// second survey that gave the same key.
func (s *Survey) Key(now time.Time) string {
	if !s.honest || s.Partial || s.newest.After(now.Add(-settled)) {
		return ""
	}
	return hex.EncodeToString(s.digest.Sum(nil))
}

// Digest names what was surveyed, as far as the times of files tell: Key without
// its promise. It serves a tree that others change seldom.
func (s *Survey) Digest() string { return hex.EncodeToString(s.digest.Sum(nil)) }

type surveyor struct {
	ctx     context.Context
	most    int64
	systems map[uint64]string // file systems by device, as they are in the digest
	links   map[[2]uint64]bool
	Survey
}

// add surveys the file at path, which has that name in the directory to which way
// leads; the top has none.
func (s *surveyor) add(path string, way *Way, name string) error {
	if s.Partial = s.Bytes > s.most && s.Files > maxBeyond; s.Partial {
		return nil
	}
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) && name != "" { // it was there a moment ago
		s.honest = false
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	system, err := s.system(path, &st)
	if err != nil {
		return err
	}
	s.Files++
	// Of its path only the last name: what is in a directory follows it, to its end.
	fmt.Fprintf(s.digest, "%d:%s %s %d %o %d %d.%d %d.%d\n", len(name), name, system, st.Ino, st.Mode, st.Size,
		st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
	if changed := time.Unix(st.Ctim.Unix()); changed.After(s.newest) {
		s.newest = changed
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.regular(&st)
	case unix.S_IFDIR:
		if name != "" {
			way = way.To(name)
		}
		return s.directory(path, way)
	case unix.S_IFLNK:
	default:
		if s.Special++; len(s.Examples) < maxSpecial {
			s.Examples = append(s.Examples, way.To(name).String())
		}
	}
	return nil
}

// regular counts a file's bytes, once for all its names.
func (s *surveyor) regular(st *unix.Stat_t) {
	if st.Nlink > 1 {
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if s.links[id] {
			return
		}
		if s.links == nil {
			s.links = map[[2]uint64]bool{}
		}
		s.links[id] = true
	}
	size := st.Size
	if size > smallFile {
		size = min(size, st.Blocks*512) // st_blocks, see stat(2)
	}
	s.Bytes += size
}

func (s *surveyor) directory(path string, way *Way) error {
	err := EachIn(s.ctx, path, way.Depth(), func(path, name string) error { return s.add(path, way, name) })
	fmt.Fprint(s.digest, "end\n")
	return err
}

// EachIn calls f with path and name of each file in a directory, in order of names.
func EachIn(ctx context.Context, dir string, depth int, f func(path, name string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%w: more than %d", ErrTooDeep, maxDepth)
	}
	dir, done, err := Shorten(dir)
	if err != nil {
		return err
	}
	defer done()
	names, err := ReadNames(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := f(dir+"/"+n, n); err != nil {
			return err
		}
	}
	return nil
}

// system describes the file system that a file is on, when it is first met.
func (s *surveyor) system(path string, st *unix.Stat_t) (string, error) {
	if known, ok := s.systems[st.Dev]; ok {
		return known, nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK { // statfs(2) would follow it
		s.honest = false
		return "", nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return "", &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if !honestTypes[fs.Type] {
		s.honest = false
	}
	s.systems[st.Dev] = fmt.Sprintf("%d %x %x", st.Dev, fs.Type, fs.Fsid.Val)
	return s.systems[st.Dev], nil
}

// Settle writes back what is below path and not on the disk yet, so that a
// program that writes by a mapping shows in the files' times from now on.
func Settle(ctx context.Context, path string) error { return settle(ctx, path, 0) }

func settle(ctx context.Context, path string, depth int) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f, err := Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		const whole = 0
		err = unix.SyncFileRange(int(f.Fd()), 0, whole,
			unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
		if err != nil {
			return &os.PathError{Op: "sync_file_range", Path: path, Err: err}
		}
	case unix.S_IFDIR:
		return EachIn(ctx, path, depth, func(path, _ string) error { return settle(ctx, path, depth+1) })
	}
	return nil
}
