package standin

import (
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestBesideForks: what other threads fork meanwhile, and does not execute another
// program at once, costs no container.
func TestBesideForks(t *testing.T) {
	needRoot(t)
	done := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { forks(t, done) })
	}
	for range 300 {
		_, end, err := Start("/proc/self/ns/net", "default/c1")
		if err != nil {
			t.Error(err)
			break
		}
		end()
	}
	close(done)
	all.Wait()
}

// forks makes processes, one after the other, that have all files of this one for a
// moment.
func forks(t *testing.T, done <-chan struct{}) {
	pause := unix.NsecToTimespec(int64(time.Millisecond))
	for {
		select {
		case <-done:
			return
		default:
		}
		pid, errno := fork(&pause)
		if errno != 0 {
			t.Error(errno)
			return
		}
		for {
			if _, err := unix.Wait4(int(pid), nil, 0, nil); err != unix.EINTR {
				break
			}
		}
	}
}

// fork makes a process that sleeps and ends, as C libraries do that take their time
// before they execute a program. In it nothing of Go's runtime runs.
//
//go:norace
//go:nosplit
func fork(pause *unix.Timespec) (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(pause)), 0, 0)
	for {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
