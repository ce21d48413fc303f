package image

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// unnamedFile makes a temporary file that has no name any more, in dir or where
// Options.TempDir says.
func unnamedFile(dir string) (*os.File, error) {
	dir, err := spoolDir(dir)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".uni-image-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// largeTemp is where large temporary files belong (FHS 3.0, 5.15).
const largeTemp = "/var/tmp"

// spoolDir returns a directory on a disk: what an image unpacks to would take
// the host's memory on a tmpfs, whatever limits the process has.
func spoolDir(dir string) (string, error) {
	dir = cmp.Or(dir, os.TempDir())
	for _, d := range []string{dir, largeTemp} {
		inMemory, err := isInMemory(d)
		if err != nil {
			return "", err
		}
		if !inMemory {
			return d, nil
		}
	}
	return "", fmt.Errorf("%s and %s are in memory (tmpfs), where an image's layers are not kept: set TMPDIR to a directory on a disk", dir, largeTemp)
}

// isInMemory says whether a directory is on a tmpfs. Tests replace it.
var isInMemory = func(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC, nil
}
