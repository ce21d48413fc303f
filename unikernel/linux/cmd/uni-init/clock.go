package main

import (
	"os"
	"sync"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// How the clock is corrected. It is never set back: programs rely on that.
const (
	// stepFrom is how far the clock is behind to be set forward at once. Less is
	// made up for as adjtime(3) does it, by 1 second in 2000.
	stepFrom = 50 * time.Millisecond
	// A clock that is ahead by more is slowed down by a tenth: tickSlow in place
	// of tickNormal is the length in µs of a hundredth of a second (adjtimex(2)).
	tickNormal, tickSlow = 10_000, 9_000
	// mostSlow is the most that one correction makes up for so.
	mostSlow = 24 * time.Hour
)

// correction is how a difference is made up for: one of the three.
type correction struct {
	step time.Duration // set forward
	slew time.Duration // left to the kernel, in either direction
	slow time.Duration // how long the clock runs slow
}

func correctionOf(behind time.Duration) correction {
	switch {
	case behind >= stepFrom:
		return correction{step: behind}
	case behind <= -stepFrom:
		return correction{slow: -max(behind, -mostSlow) * tickNormal / (tickNormal - tickSlow)}
	default:
		return correction{slew: behind.Round(time.Microsecond)}
	}
}

// clock is the machine's.
type clock struct {
	mu     sync.Mutex
	normal *time.Timer // ends running slow
}

// correct begins to make up for a difference, in place of an earlier one.
func (c *clock) correct(behind time.Duration) error {
	if behind == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.normal != nil && c.normal.Stop() {
		if err := setTick(tickNormal); err != nil {
			return err
		}
	}
	how := correctionOf(behind)
	if err := adjust(unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: how.slew.Microseconds()}); err != nil {
		return err
	}
	if how.step > 0 {
		var t unix.Timex
		t.Modes = unix.ADJ_SETOFFSET // not in ns: that would change the unit for everybody
		t.Time.Sec, t.Time.Usec = int64(how.step/time.Second), (how.step % time.Second).Microseconds()
		return adjust(t)
	}
	if how.slow > 0 {
		if err := setTick(tickSlow); err != nil {
			return err
		}
		c.normal = time.AfterFunc(how.slow, func() { setTick(tickNormal) })
	}
	return nil
}

func setTick(us int64) error { return adjust(unix.Timex{Modes: unix.ADJ_TICK, Tick: us}) }

func adjust(t unix.Timex) error {
	_, err := unix.Adjtimex(&t)
	return os.NewSyscallError("adjtimex", err)
}

// setClock answers with the time and then corrects it.
func (s *server) setClock(req uint32, c wire.Clock) {
	now := time.Now().UnixNano()
	r := replyOf(s.clock.correct(time.Duration(c.Behind)))
	r.Data = wire.Time{Now: now}.Encode()
	s.send(wire.KindReply, req, r.Encode())
}
