package hostfstest

import (
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Deep makes directories in each other below dir, whose paths are much longer than
// the kernel takes, and the file "f" in the innermost. It returns the innermost's
// path, and the path for this process of a descriptor of it.
func Deep(t *testing.T, dir string, depth int) (path, fd string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	name := strings.Repeat("d", 200)
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	for range depth {
		must(unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(err)
		must(unix.Close(at))
		at, dir = next, dir+"/"+name
	}
	t.Cleanup(func() { unix.Close(at) })
	fd = "/proc/self/fd/" + strconv.Itoa(at)
	f, err := unix.Open(fd+"/f", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o640)
	must(err)
	_, err = unix.Write(f, []byte("deep"))
	must(err)
	must(unix.Close(f))
	return dir, fd
}
