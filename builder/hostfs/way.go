package hostfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth is how deep directories of a tree nest that is read: what a path of
// PATH_MAX bytes could name. One deeper is ErrTooDeep.
const maxDepth = unix.PathMax / 2

// ErrTooDeep is for directories that nest too deep.
var ErrTooDeep = errors.New("directories nest too deep")

// Way leads from the top of a tree, which has none, to a file: however deep it is,
// it takes no more memory than the name.
type Way struct {
	above *Way
	name  string
	depth int
}

// To is the way to a file in the directory to which w leads.
func (w *Way) To(name string) *Way { return &Way{above: w, name: name, depth: w.Depth() + 1} }

// Depth is the number of names on the way.
func (w *Way) Depth() int {
	if w == nil {
		return 0
	}
	return w.depth
}

// String is the path from the top. It may be longer than the kernel takes.
func (w *Way) String() string {
	names := make([]string, 0, w.Depth())
	for ; w != nil; w = w.above {
		names = append(names, w.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// At calls f with a directory and a path that the kernel takes, for a path of any
// length below the directory dir, of which no name is that of a symbolic link.
func At(dir int, path string, f func(dir int, path string) error) error {
	if len(path) < unix.PathMax {
		return f(dir, path)
	}
	cut := strings.LastIndexByte(path[:unix.PathMax-1], '/')
	if cut <= 0 {
		return &os.PathError{Op: "open", Path: path[:unix.PathMax], Err: unix.ENAMETOOLONG}
	}
	next, err := unix.Openat(dir, path[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path[:cut], Err: err}
	}
	defer unix.Close(next)
	return At(next, path[cut+1:], f)
}

// Shorten returns a path of a directory to which names of files in it can be
// appended: its own, or that of a descriptor, good until done is called.
func Shorten(dir string) (path string, done func(), err error) {
	if len(dir) < unix.PathMax/2 {
		return dir, func() {}, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return ofDescriptor(fd), func() { unix.Close(fd) }, nil
}

// ofDescriptor is a path of an open directory.
func ofDescriptor(fd int) string { return fmt.Sprintf("/proc/self/fd/%d/.", fd) }
