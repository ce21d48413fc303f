package libvirt

import (
	"context"
	"fmt"
	"time"

	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
)

// call runs f on the connection, in a goroutine: libvirt's calls know no
// context. When ctx ends first, f runs on and its result is dropped, so f must
// not leave behind what the caller would have to undo.
func call[T any](ctx context.Context, d *Driver, f func(*lv.Connect) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var r result
	s, err := d.use(ctx)
	if err != nil {
		return r.value, err
	}
	done := make(chan result, 1)
	go func() {
		defer d.work.Done()
		defer d.release(s)
		v, err := f(s.conn)
		done <- result{v, err}
	}()
	select {
	case r = <-done:
		return r.value, r.err
	case <-ctx.Done():
		return r.value, fmt.Errorf("libvirt does not answer: %w: %w", unikernel.ErrUnavailable, ctx.Err())
	}
}

// do is call for a function without a value.
func (d *Driver) do(ctx context.Context, f func(*lv.Connect) error) error {
	_, err := call(ctx, d, func(c *lv.Connect) (struct{}, error) { return struct{}{}, f(c) })
	return err
}

// use takes the connection for one call, and adds the caller to d.work. While
// the daemon is away it tries once to connect.
func (d *Driver) use(ctx context.Context) (*session, error) {
	for attempt := 0; ; attempt++ {
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			return nil, fmt.Errorf("%w: the connection to libvirt is closed", unikernel.ErrUnavailable)
		}
		if s := d.session; s != nil {
			s.users++
			d.work.Add(1)
			d.mu.Unlock()
			return s, nil
		}
		d.mu.Unlock()
		if attempt > 0 {
			return nil, fmt.Errorf("%w: the connection to libvirt broke again", unikernel.ErrUnavailable)
		}
		if err := d.reconnect(ctx); err != nil {
			return nil, err
		}
	}
}

func (d *Driver) release(s *session) {
	d.mu.Lock()
	s.users--
	last := s.users == 0
	d.mu.Unlock()
	if last {
		_, _ = s.conn.Close() // of a broken connection it fails, and frees it all the same
	}
}

// retryFor bounds how long the driver tries on its own to find a daemon again
// that went away; retryMost is the pause between two tries at most.
const (
	retryFor  = time.Minute
	retryMost = 2 * time.Second
)

// lost is told by libvirt's event loop that a connection broke.
func (d *Driver) lost(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.session != s {
		return
	}
	d.session = nil
	d.work.Add(1)
	go func() { // not here: the loop must run for it
		defer d.work.Done()
		d.release(s)
	}()
	if d.retrying {
		return
	}
	d.retrying = true
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		d.retry()
	}()
}

// retry looks for the daemon. Without it machines run on: QEMU does not need
// it, and a guest's power-off leaves QEMU waiting for it.
func (d *Driver) retry() {
	d.log("the connection to %s broke; machines run on, connecting again", d.target.uri)
	ctx, cancel := context.WithTimeout(d.ctx, retryFor)
	defer cancel()
	pause := 50 * time.Millisecond
	for {
		err := d.reconnect(ctx)
		if err == nil {
			d.log("connected to %s again", d.target.uri)
			break
		}
		select {
		case <-ctx.Done():
			if d.ctx.Err() == nil {
				d.log("%s stays away, the next call tries again: %v", d.target.uri, err)
			}
		case <-time.After(pause):
			pause = min(2*pause, retryMost)
			continue
		}
		break
	}
	d.mu.Lock()
	d.retrying = false
	d.mu.Unlock()
}

// reconnect makes a new session and looks what became of the machines.
func (d *Driver) reconnect(ctx context.Context) error {
	s, err := d.connect(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	if d.closed || d.session != nil { // someone else was quicker
		d.mu.Unlock()
		d.release(s)
		return nil
	}
	d.session = s
	defer d.mu.Unlock()
	for _, dom := range d.domains {
		d.work.Add(1)
		go func() {
			defer d.work.Done()
			d.inspect(dom, "")
		}()
	}
	return nil
}
