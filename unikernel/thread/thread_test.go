package thread

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// onMain is what spend did where it met the main thread.
var onMain struct {
	thread int
	err    error
}

func init() { runtime.LockOSThread() } // TestMain has the main thread

func TestMain(m *testing.M) {
	onMain.err = spend(func() error {
		onMain.thread = unix.Gettid()
		return os.ErrInvalid
	})
	runtime.UnlockOSThread()
	os.Exit(m.Run())
}

// TestMainThread: the main thread is spared, and free again.
func TestMainThread(t *testing.T) {
	if onMain.thread == 0 || onMain.thread == os.Getpid() {
		t.Errorf("ran on thread %d of process %d", onMain.thread, os.Getpid())
	}
	if !errors.Is(onMain.err, os.ErrInvalid) {
		t.Errorf("error %v, want the function's", onMain.err)
	}
}

// TestDiscard: no later goroutine meets what a function did to its thread.
func TestDiscard(t *testing.T) {
	spent := map[int]bool{}
	for range 50 {
		err := Discard(func() error {
			if spent[unix.Gettid()] {
				// The kernel counts on; a number comes again after 32,768 threads at least.
				t.Errorf("thread %d was used twice", unix.Gettid())
			}
			spent[unix.Gettid()] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if spent[os.Getpid()] {
		t.Error("the main thread was spent")
	}
}
