package libvirt

import (
	"fmt"
	"sync"
	"sync/atomic"

	lv "libvirt.org/go/libvirt"
)

// loop is libvirt's event loop. libvirt has one a process: it is registered
// once, before the first connection, and runs in one goroutine from the first
// driver's Open to the last one's Close.
var loop eventLoop

type eventLoop struct {
	mu         sync.Mutex
	registered bool
	users      int
	stop       *atomic.Bool
	done       chan struct{}
}

// acquire makes the loop run for one user more.
func (l *eventLoop) acquire() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.registered {
		if err := lv.EventRegisterDefaultImpl(); err != nil {
			return fmt.Errorf("register libvirt's event loop: %w", err)
		}
		l.registered = true
	}
	l.users++
	if l.users > 1 {
		return nil
	}
	stop, done := new(atomic.Bool), make(chan struct{})
	l.stop, l.done = stop, done
	go func() {
		defer close(done)
		for !stop.Load() {
			// The default implementation fails only when none is registered.
			if lv.EventRunDefaultImpl() != nil {
				return
			}
		}
	}()
	return nil
}

// release undoes one acquire. After the last one no goroutine is left.
func (l *eventLoop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users--
	if l.users > 0 {
		return
	}
	l.stop.Store(true)
	// The loop sleeps until something happens: a timer that is due wakes it.
	if timer, err := lv.EventAddTimeout(0, func(int) {}); err == nil {
		<-l.done
		_ = lv.EventRemoveTimeout(timer)
	}
}
