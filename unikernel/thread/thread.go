package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Discard runs f on a thread that ends with it, so f may leave it in any state.
//
// That thread is never the main one, which cannot end: what f did to it would
// stay, and /proc/self would show it as the whole process's.
func Discard(f func() error) error {
	done := make(chan error)
	go func() { done <- spend(f) }()
	return <-done
}

// spend runs f on the goroutine's own thread, which then ends with the
// goroutine since it stays locked, or elsewhere if that is the main thread.
func spend(f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		return f()
	}
	defer runtime.UnlockOSThread()
	return Discard(f) // while the main thread is held, another goroutine has another
}
