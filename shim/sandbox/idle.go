package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"containerd-shim-uni/unikernel"
)

// A machine that boots computes, or waits for the host's processors, all the
// time. One that sleeps instead has lost what would wake it (a kernel that
// measured its timer while the host was busy has none), and would sleep until
// the boot timeout. Another machine takes its place.

// errIdle ends waiting for a guest that sleeps.
var errIdle = fmt.Errorf("%w: the guest went to sleep before it was up, as a kernel does that has lost its timer", unikernel.ErrUnavailable)

// mostBoots is how many machines a sandbox tries in all.
const mostBoots = 3

// connect returns the guest's session, or errIdle.
func (s *Sandbox) connect(ctx context.Context) (unikernel.Session, error) {
	if s.hardware.Alone() {
		return s.guest.Connect(ctx, booted{s}) // its program may sleep already
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go awaitIdle(ctx, s.vm.activity, func() { cancel(errIdle) })
	session, err := s.guest.Connect(ctx, booted{s})
	if err != nil && errors.Is(context.Cause(ctx), errIdle) {
		return nil, errIdle
	}
	return session, err
}

// awaitIdle calls idle once somebody was asleep whenever it looked, and has run
// for less than a fiftieth of the time, for as long as idlePatience. It ends with
// ctx, and does nothing where the activity cannot be told.
func awaitIdle(ctx context.Context, activity func() (ran time.Duration, awake bool, err error), idle func()) {
	ticker := time.NewTicker(idlePatience / 8)
	defer ticker.Stop()
	var since time.Time
	var then time.Duration
	for {
		now, awake, err := activity()
		if err != nil {
			return
		}
		if since.IsZero() || awake || now-then > time.Since(since)/50+idleNoise {
			since, then = time.Now(), now
		} else if time.Since(since) >= idlePatience {
			idle()
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// idleNoise is how much a sleeping process may do: looking at its clock.
const idleNoise = 2 * time.Millisecond

// activity is for how long the process's threads have run so far
// (/proc/PID/task/TID/schedstat, sched-stats.rst of the kernel), and whether one
// of them does anything but sleep: wait for a processor or for a disk, say.
func (p *process) activity() (ran time.Duration, awake bool, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.id()))
	if err != nil || len(threads) == 0 {
		return 0, false, errors.Join(err, os.ErrNotExist)
	}
	for _, dir := range threads {
		text, err := os.ReadFile(dir + "/schedstat")
		if err != nil {
			continue // the thread has ended
		}
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			return 0, false, err
		}
		ran += time.Duration(ns)
		stat, err := os.ReadFile(dir + "/stat")
		if i := bytes.LastIndexByte(stat, ')'); err == nil && i+2 < len(stat) && stat[i+2] != 'S' {
			awake = true
		}
	}
	return ran, awake, nil
}
