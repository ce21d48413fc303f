package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
)

// Bounds are limits that somebody else set; 0 is none, or not to be known.
type Bounds struct {
	MemoryBytes int64
	// CPUs is the time of that many processors.
	CPUs float64
	// CPUSet lists the processors (cpuset(7)); empty if that is not to be known.
	CPUSet string
}

// Above returns the bounds of the cgroup that the one at path is to be in, which need
// not be there.
func Above(path string) Bounds { return detect().bounds(filepath.Dir(path)) }

// bounds implements hierarchy (Documentation/admin-guide/cgroup-v2.rst).
func (u unified) bounds(path string) Bounds {
	b := Bounds{MemoryBytes: readLimit(filepath.Join(u.dir(path), "memory.max"))}
	b.CPUSet = readSet(filepath.Join(u.dir(path), "cpuset.cpus.effective"))
	text, _ := os.ReadFile(filepath.Join(u.dir(path), "cpu.max"))
	if quota, period, ok := strings.Cut(strings.TrimSpace(string(text)), " "); ok {
		b.CPUs = cpus(parseLimit(quota), parseLimit(period))
	}
	return b
}

// bounds implements hierarchy (Documentation/admin-guide/cgroup-v1/memory.rst and
// scheduler/sched-bwc.rst).
func (l legacy) bounds(path string) (b Bounds) {
	controllers, err := l.controllers()
	if err != nil {
		return b
	}
	for _, c := range controllers {
		tree, ok := c.(interface{ Path(string) string })
		switch {
		case !ok:
		case c.Name() == cgroup1.Memory:
			b.MemoryBytes = readLimit(filepath.Join(tree.Path(path), "memory.limit_in_bytes"))
		case c.Name() == cgroup1.Cpuset:
			b.CPUSet = readSet(filepath.Join(tree.Path(path), "cpuset.cpus"))
		case c.Name() == cgroup1.Cpu:
			b.CPUs = cpus(readLimit(filepath.Join(tree.Path(path), "cpu.cfs_quota_us")),
				readLimit(filepath.Join(tree.Path(path), "cpu.cfs_period_us")))
		}
	}
	return b
}

func readSet(file string) string {
	text, _ := os.ReadFile(file)
	return strings.TrimSpace(string(text))
}

func cpus(quota, period int64) float64 {
	if quota == 0 || period == 0 {
		return 0
	}
	return float64(quota) / float64(period)
}

// noLimit: version 1 writes none as 2^63 rounded down to a page.
const noLimit = 1 << 62

func readLimit(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return parseLimit(strings.TrimSpace(string(text)))
}

// parseLimit reads a positive number; what is none, as "max" and -1, is 0.
func parseLimit(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n >= noLimit {
		return 0
	}
	return n
}
