package libvirt

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// f runs on one processor, the same each time, and no thread stays there, also
// none that was made meanwhile.
func TestOnOneCPU(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	var first unix.CPUSet
	for i := range 3 {
		release := make(chan struct{})
		err := onOneCPU(func() error {
			var now unix.CPUSet
			if err := unix.SchedGetaffinity(0, &now); err != nil || now.Count() != 1 || i > 0 && now != first {
				t.Errorf("runs on %v, %v; before on %v", now, err, first)
			}
			first = now
			for range 8 { // threads that block in the kernel
				go func() {
					var fds [2]int
					_ = unix.Pipe(fds[:])
					go func() { <-release; unix.Close(fds[1]) }()
					_, _ = unix.Read(fds[0], make([]byte, 1))
					unix.Close(fds[0])
				}()
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, thread := range threads {
			var set unix.CPUSet
			if tid, _ := strconv.Atoi(thread.Name()); unix.SchedGetaffinity(tid, &set) == nil && set != all {
				t.Errorf("thread %d is left on %d of %d processors", tid, set.Count(), all.Count())
			}
		}
		close(release)
	}
}
