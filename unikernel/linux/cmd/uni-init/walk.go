package main

import (
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the symbolic links of one path, as the kernel does.
const maxLinks = 40

// want says what walk does about a path that is not there.
type want int

const (
	wantExisting want = iota // ENOENT
	wantDir                  // make it and its parents directories
	wantFile                 // make it an empty file, its parents directories
)

// walk opens path below the directory root and returns an O_PATH descriptor.
// Absolute links, and "..", end at root, as they would for a process whose
// root it is. Nothing else may change the tree meanwhile.
func walk(root int, path string, w want) (int, error) {
	dirs := []int{root} // from root to where we are
	defer func() {
		for _, fd := range dirs[1:] {
			unix.Close(fd)
		}
	}()
	todo := strings.Split(path, "/")
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		here := dirs[len(dirs)-1]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(dirs) > 1 {
				unix.Close(here)
				dirs = dirs[:len(dirs)-1]
			}
			continue
		}
		target, err := readlink(here, name)
		if err == nil {
			if links++; links > maxLinks {
				return -1, unix.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				for _, fd := range dirs[1:] {
					unix.Close(fd)
				}
				dirs = dirs[:1]
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		fd, err := enter(here, name, w, lastName(todo))
		if err != nil {
			return -1, err
		}
		dirs = append(dirs, fd)
	}
	return unix.FcntlInt(uintptr(dirs[len(dirs)-1]), unix.F_DUPFD_CLOEXEC, 0)
}

// lastName tells whether none of the names leads further.
func lastName(names []string) bool {
	for _, n := range names {
		if n != "" && n != "." {
			return false
		}
	}
	return true
}

// enter opens one name, which is no link, and makes it if it is wanted.
func enter(dir int, name string, w want, last bool) (int, error) {
	flags := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !last {
		flags |= unix.O_DIRECTORY
	}
	fd, err := unix.Openat(dir, name, flags, 0)
	if err != unix.ENOENT || w == wantExisting {
		return fd, err
	}
	if last && w == wantFile {
		f, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return -1, err
		}
		unix.Close(f)
	} else if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return -1, err
	}
	return unix.Openat(dir, name, flags, 0)
}

// readlink reads a symbolic link; anything else is an error.
func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// fdPath is a path of the descriptor for calls that take none.
func fdPath(fd int) string { return "/proc/self/fd/" + formatUint(uint64(fd)) }

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
