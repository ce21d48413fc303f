package tsc

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// apart is how long two samples are apart at least: reading a clock beside
	// the counter is off by less than 100 ns, which is then 10 parts in a million.
	apart = 10 * time.Millisecond
	// tries is how often a sample is taken to find one that was not interrupted.
	tries = 16
	// near is how much, relatively, a measured rate and the kernel's own may
	// differ to be the same.
	near = 200e-6
	// grain is what a rate is rounded to that only a measurement tells, in kHz:
	// the same host shall give the same number. It is 50 parts in a million.
	grain = 100
)

// sample is what counter and clock show at one moment.
type sample struct {
	ticks uint64
	at    int64 // CLOCK_MONOTONIC_RAW, ns
}

// began is early, so that nobody has to wait for the second sample.
var began = take()

// take reads both, as close to each other as several tries allow.
func take() (best sample) {
	width := uint64(math.MaxUint64)
	for range tries {
		before := counter()
		at := raw()
		after := counter()
		if after-before < width {
			width, best = after-before, sample{before + (after-before)/2, at}
		}
	}
	return best
}

func raw() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) // the clock is always there
	return ts.Nano()
}

// KHz returns how many thousand times a second the host's counter counts; 0 on
// a host whose kernel does not trust its counter, or that has none.
var KHz = sync.OnceValue(func() int {
	sources, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/available_clocksource")
	if !slices.Contains(strings.Fields(string(sources)), "tsc") {
		return 0
	}
	time.Sleep(time.Duration(began.at-raw()) + apart)
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	return rate(began, take(), string(cpuinfo))
})

// rate is the rate between two samples in kHz: the kernel's own figure for the
// processor where that is the counter's too, as it is unless the processor's
// frequency is scaled; else the measured one.
func rate(from, to sample, cpuinfo string) int {
	if to.at <= from.at || to.ticks <= from.ticks {
		return 0
	}
	measured := float64(to.ticks-from.ticks) / float64(to.at-from.at) * 1e6
	if told := cpuKHz(cpuinfo); math.Abs(told-measured) < measured*near {
		return int(math.Round(told))
	}
	return int(math.Round(measured/grain)) * grain
}

// cpuKHz finds the first processor's frequency in /proc/cpuinfo; 0 if it is not
// there.
func cpuKHz(cpuinfo string) float64 {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "cpu MHz" {
			mhz, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return mhz * 1000
		}
	}
	return 0
}
