package main

import (
	"slices"
	"testing"
	"time"
)

func TestBenchmarkTimes(t *testing.T) {
	out := "goos: linux\nBenchmarkX-2   \t 5\t 1500 ns/op\t 3.0 cpu-ms/op\nBenchmarkY-2  5  7 ns/op\nBenchmarkX-2  5  2e+06 ns/op\nPASS\n"
	got, err := benchmarkTimes(out, "BenchmarkX")
	if want := []time.Duration{1500, 2 * time.Millisecond}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for _, out := range []string{"", "BenchmarkX-2 5 much ns/op"} {
		if _, err := benchmarkTimes(out, "BenchmarkX"); err == nil {
			t.Errorf("%q has times", out)
		}
	}
}
