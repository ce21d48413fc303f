package libvirt

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
)

// What QEMU and virtiofsd print goes to files on a tmpfs, and a guest can make both
// print for ever: a device that it breaks and resets is a line each time.
const (
	maxLog   = 1 << 20                // bytes, when somebody looks
	logPause = 100 * time.Millisecond // between two looks while a log grows
	logPoll  = 10 * time.Second       // on a host that has no inotify instance left
)

// ownLogs are a machine's logs that nobody else bounds: libvirtd's are virtlogd's.
func (d *Driver) ownLogs(m unikernel.Machine) []string {
	var logs []string
	if d.target.embedded() {
		logs = append(logs, filepath.Join(d.target.logs, m.Name+".log"))
	}
	if m.Share != nil {
		logs = append(logs, shareLog(m.Share))
	}
	return logs
}

// boundLogs bounds a machine's logs until its QEMU has ended or the driver is closed.
func (d *Driver) boundLogs(dom *domain, logs []string) {
	if len(logs) == 0 {
		return
	}
	done := make(chan struct{})
	d.work.Add(2)
	go func() {
		defer d.work.Done()
		defer close(done)
		select {
		case <-dom.gone:
		case <-d.ctx.Done():
		}
	}()
	go func() {
		defer d.work.Done()
		boundLogs(logs, done)
	}()
}

// boundLogs empties logs that have become too long, until done is closed. All are
// written at their ends, wherever these are. Nothing happens while nothing is
// written.
func boundLogs(logs []string, done <-chan struct{}) {
	events := watchFiles(logs)
	if events != nil {
		closed := make(chan struct{})
		defer func() { <-closed }()
		go func() { defer close(closed); <-done; events.Close() }()
	}
	for {
		pause := logPoll
		if events != nil {
			pause = logPause
			if _, err := events.Read(make([]byte, 4096)); err != nil {
				return
			}
		}
		for _, path := range logs {
			if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
				_ = os.Truncate(path, 0) // it may be gone by now
			}
		}
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
	}
}

// watchFiles returns what can be read from when one of the files was written, nil if
// that cannot be had.
func watchFiles(paths []string) *os.File {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	for _, path := range paths {
		if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
			unix.Close(fd)
			return nil
		}
	}
	return os.NewFile(uintptr(fd), "inotify")
}
