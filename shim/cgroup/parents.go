package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups above the container's that were not there before are marked, so that
// whoever empties one, which may be another container, can remove it. Those
// that somebody else made stay.

// markName is an extended attribute, as systemd marks what it delegates.
const markName = "trusted.uni"

// mark and marked are replaced by tests, which may not set the attribute.
var (
	mark   = func(dir string) error { return unix.Setxattr(dir, markName, []byte("1"), 0) }
	marked = func(dir string) bool {
		_, err := unix.Getxattr(dir, markName, nil)
		return err == nil
	}
)

// lockTimeout bounds waiting for others that make or remove cgroups, which takes
// them a moment.
const lockTimeout = 2 * time.Second

// exclusive does something while no other shim removes parents: a cgroup that is
// being made below an empty one would lose its ground.
func exclusive(roots []string, do func()) {
	if len(roots) > 0 {
		if f, err := os.Open(roots[0]); err == nil {
			defer f.Close() // which unlocks
			for began := time.Now(); unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil && time.Since(began) < lockTimeout; {
				time.Sleep(time.Millisecond)
			}
		}
	}
	do()
}

// missingParents returns the directories above a cgroup that are not there, in
// the trees with these roots.
func missingParents(roots []string, path string) (missing []string) {
	for _, root := range roots {
		for p := filepath.Dir(path); p != "/"; p = filepath.Dir(p) {
			if _, err := os.Lstat(filepath.Join(root, p)); errors.Is(err, os.ErrNotExist) {
				missing = append(missing, filepath.Join(root, p))
			}
		}
	}
	return missing
}

// markParents marks directories that exist by now. A kernel that keeps no marks
// leaves them to stay.
func markParents(dirs []string) {
	for _, dir := range dirs {
		_ = mark(dir)
	}
}

// removeParents removes the marked directories above a cgroup that are empty.
func removeParents(roots []string, path string) {
	for _, root := range roots {
		for p := filepath.Dir(path); p != "/"; p = filepath.Dir(p) {
			dir := filepath.Join(root, p)
			if !marked(dir) || os.Remove(dir) != nil { // in use, or gone: somebody else's turn
				break
			}
		}
	}
}
