package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// library measures what no program shows by itself, with the packages' own
// benchmarks: the disks of the guest nanos, for which no kernel is needed. Like
// every row, they can be compared with others of one run alone.
func (b *bench) library(ctx context.Context, t *table) error {
	t.head("disks of nanos: 4,286 files (medians, lowest)")
	for _, r := range []struct{ name, folder, benchmark string }{
		{"a directory of 133 MB to a disk, not synced", "./builder/tfs", "BenchmarkWrite"},
		{"a container's configuration", "./builder", "BenchmarkConfigure"},
	} {
		took, err := benchmark(ctx, r.folder, r.benchmark)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", r.benchmark, r.folder, err)
		}
		t.line(r.name, "%7.1f ms  (%.1f)", millis(median(took)), millis(slices.Min(took)))
	}
	return nil
}

// benchmark runs one of a package some times.
func benchmark(ctx context.Context, folder, name string) ([]time.Duration, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-buildvcs=false", "-run", "^$", "-bench", "^"+name+"$",
		"-benchtime", "5x", "-count", "5", folder).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return benchmarkTimes(string(out), name)
}

// benchmarkTimes reads what "go test -bench" prints: "BenchmarkX-2  5  123 ns/op".
func benchmarkTimes(out, name string) (all []time.Duration, err error) {
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(words[0], name) || words[3] != "ns/op" {
			continue
		}
		ns, err := strconv.ParseFloat(words[2], 64)
		if err != nil {
			return nil, err
		}
		all = append(all, time.Duration(ns))
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no times in %q", out)
	}
	return all, nil
}
