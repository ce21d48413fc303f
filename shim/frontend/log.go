package frontend

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// fifoLog writes to the fifo from which containerd reads a shim's log. Both
// ends are held, so a containerd that is gone is no error and a new one reads
// on; when nobody has read for 64 KiB (pipe(7)) further lines are dropped.
type fifoLog struct{ fd int }

// openLog opens the fifo "log" of a bundle and makes it our standard error too,
// for the last words of a crash.
func openLog(bundle string, debug bool) error {
	_ = log.SetFormat(log.TextFormat)
	if debug {
		_ = log.SetLevel(log.DebugLevel.String())
	}
	fd, err := unix.Open(filepath.Join(bundle, "log"), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "log", Err: err}
	}
	log.L.Logger.SetOutput(fifoLog{fd})
	return unix.Dup3(fd, 2, 0)
}

// Write writes one line, or drops it.
func (l fifoLog) Write(p []byte) (int, error) {
	for {
		_, err := unix.Write(l.fd, p)
		if !errors.Is(err, unix.EINTR) {
			return len(p), nil
		}
	}
}
