package main

import (
	"testing"
	"time"
)

// A clock is set forward, slewed or slowed down, and never set back.
func TestCorrection(t *testing.T) {
	for _, c := range []struct {
		behind time.Duration
		want   correction
	}{
		{time.Hour, correction{step: time.Hour}},
		{50 * time.Millisecond, correction{step: 50 * time.Millisecond}},
		{49 * time.Millisecond, correction{slew: 49 * time.Millisecond}},
		{1500 * time.Nanosecond, correction{slew: 2 * time.Microsecond}},
		{-49 * time.Millisecond, correction{slew: -49 * time.Millisecond}},
		{-50 * time.Millisecond, correction{slow: 500 * time.Millisecond}},
		{-time.Hour, correction{slow: 10 * time.Hour}},
		{-1 << 63, correction{slow: 240 * time.Hour}},
	} {
		if got := correctionOf(c.behind); got != c.want {
			t.Errorf("%v behind: %+v, want %+v", c.behind, got, c.want)
		}
	}
}
