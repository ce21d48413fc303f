package linux

import (
	"context"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// near says whether a clock was corrected by about so much, within what the
// host may be wrong by.
func near(got, want time.Duration) bool { return (got - want).Abs() <= 2*clockDoubt }

// The time comes with the container, and again when it is asked for. A guest
// that is right is left alone.
func TestClock(t *testing.T) {
	s, g := attach(t)
	g.skew = -time.Hour
	runProcess(t, s, g, unikernel.Stdio{})
	if c := g.corrected(); len(c) != 1 || !near(c[0], time.Hour) {
		t.Errorf("an hour behind at the start, corrected by %v", c)
	}
	g.drain()
	for _, ahead := range []time.Duration{-3 * time.Second, 0, 500 * time.Millisecond, 0} {
		g.cmu.Lock()
		g.skew += ahead
		g.cmu.Unlock()
		if err := s.(unikernel.Timekeeper).SetClock(testContext(t)); err != nil {
			t.Fatal(err)
		}
		c := g.corrected()
		if ahead == 0 {
			for _, by := range c { // what the last one was wrong by
				if !near(by, 0) {
					t.Errorf("a clock that is right was corrected by %v", by)
				}
			}
		} else if len(c) != 1 || !near(c[0], -ahead) {
			t.Errorf("%v ahead, corrected by %v", ahead, c)
		}
	}
}

// An answer that took long says little; the host asks until it knows better.
func TestClockOfABusyGuest(t *testing.T) {
	s, g := attach(t)
	g.skew = -time.Minute
	g.answer = func(question int) time.Duration {
		if question < 4 {
			return 300 * time.Millisecond
		}
		return 0
	}
	runProcess(t, s, g, unikernel.Stdio{})
	if c := g.corrected(); len(c) != 1 || !near(c[0], time.Minute) {
		t.Errorf("a minute behind, corrected by %v", c)
	}
}

// A guest that does not answer, as one that is paused, holds nobody up for
// longer than he waits.
func TestClockOfASilentGuest(t *testing.T) {
	s, g := attach(t)
	hold := make(chan struct{})
	g.answer = func(int) time.Duration { <-hold; return 0 }
	g.drain()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := s.(unikernel.Timekeeper).SetClock(ctx); err == nil {
			t.Error("no answer is an answer")
		}
		cancel()
	}
	close(hold)
	if err := s.(unikernel.Timekeeper).SetClock(testContext(t)); err != nil {
		t.Errorf("after it answers again: %v", err)
	}
}
