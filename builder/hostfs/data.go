package hostfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// smallFile is the size in bytes up to which holes are not worth two calls.
const smallFile = 1 << 20

// ErrChanged says that a file is not what it was when the tree was scanned.
var ErrChanged = errors.New("the file changed while it was read")

// maxNames bounds the names of one directory: some 300 MB of memory.
const maxNames = 2 << 20

// ErrTooLarge is for a directory with more names than are read.
var ErrTooLarge = fmt.Errorf("a directory of more than %d names", maxNames)

// ReadNames returns the sorted names of a directory; for more than two million,
// ErrTooLarge.
func ReadNames(path string) ([]string, error) {
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxNames + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > maxNames {
		return nil, &os.PathError{Op: "read", Path: path, Err: ErrTooLarge}
	}
	slices.Sort(names)
	return names, nil
}

// Open opens a regular file for reading, however long its path is.
func Open(path string) (f *os.File, err error) {
	err = At(unix.AT_FDCWD, path, func(dir int, rest string) error {
		fd, err := unix.Openat(dir, rest, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: rest, Err: err}
		}
		f = os.NewFile(uintptr(fd), rest)
		return nil
	})
	return f, err
}

// NextData returns the first range of data at or after pos, cut at size;
// start is size where there is none.
func NextData(in *os.File, pos, size int64) (start, end int64, err error) {
	if size <= smallFile {
		return pos, size, nil
	}
	return SeekData(in, pos, size)
}

// SeekData is NextData for a file of any size.
func SeekData(in *os.File, pos, size int64) (start, end int64, err error) {
	start, err = in.Seek(pos, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case err != nil: // the file system cannot tell
		return pos, size, nil
	}
	end, err = in.Seek(start, unix.SEEK_HOLE)
	return min(start, size), min(end, size), err
}
