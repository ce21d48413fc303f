package boundtest

import (
	"runtime"
	"testing"
	"time"
)

// Most fails the test if f, with all that it starts, allocates more than limit
// bytes. Everything counts that was ever allocated, also what the collector has
// taken back: so the measure depends neither on the collector nor on other
// memory of the process, and a reader that is within it is within any limit of
// the process's memory that is as much above its size. Nothing else may run
// meanwhile. With the race detector it
// may be half as much again, see margin.
func Most(t testing.TB, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	used := after.TotalAlloc - before.TotalAlloc
	limit = uint64(float64(limit) * margin)
	t.Logf("%d KiB allocated, %v", used>>10, took)
	if used > limit {
		t.Errorf("%d bytes were allocated, at most %d are right", used, limit)
	}
}
