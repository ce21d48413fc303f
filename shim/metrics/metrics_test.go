package metrics

import (
	"testing"

	"containerd-shim-uni/unikernel"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
)

const mib = 1 << 20

var counted = unikernel.Stats{
	CPU: unikernel.CPUStats{Usage: 30, User: 20, System: 10},
	Memory: unikernel.MemoryStats{Usage: 50 * mib, Peak: 60 * mib,
		Stat:   map[string]uint64{"anon": 11, "file": 22, "inactive_file": 7, "pgmajfault": 3},
		Events: map[string]uint64{"oom_kill": 2, "max": 9}},
	Pids: 4, PidsLimit: 100,
	Block:   []unikernel.BlockStats{{Major: 254, Minor: 16, ReadBytes: 4096, WriteBytes: 8192, Reads: 1, Writes: 2}},
	Network: []unikernel.NetworkStats{{Name: "eth0", RxBytes: 1500, TxBytes: 2500}},
}

// What ctr, nerdctl and CRI read (ctr's metrics command, nerdctl's statsutil,
// CRI's container_stats_list).
func TestContainer(t *testing.T) {
	host1 := &v1.Metrics{
		CPU:    &v1.CPUStat{Usage: &v1.CPUUsage{Total: 1 << 50}, Throttling: &v1.Throttle{Periods: 5, ThrottledPeriods: 1}},
		Memory: &v1.MemoryStat{Usage: &v1.MemoryEntry{Usage: 300 * mib}},
		Pids:   &v1.PidsStat{Current: 17},
	}
	m1 := Container(counted, host1, 256*mib).(*v1.Metrics)
	mem := m1.Memory
	if m1.Pids.Current != 4 || m1.Pids.Limit != 100 || m1.CPU.Usage.Total != 30_000 || m1.CPU.Usage.Kernel != 10_000 ||
		m1.CPU.Throttling.Periods != 5 || mem.Usage.Usage != 50*mib || mem.Usage.Limit != 256*mib || mem.Usage.Max != 60*mib ||
		mem.RSS != 11 || mem.Cache != 22 || mem.TotalInactiveFile != 7 || mem.TotalPgMajFault != 3 || mem.Usage.Failcnt != 9 ||
		mem.Swap == nil || mem.Kernel == nil || mem.KernelTCP == nil ||
		m1.MemoryOomControl.OomKill != 2 || m1.Network[0].TxBytes != 2500 {
		t.Errorf("version 1: %v", m1)
	}
	if b := m1.Blkio.IoServiceBytesRecursive; len(b) != 2 || b[0].Op != "Read" || b[0].Value != 4096 || b[1].Op != "Write" || b[1].Value != 8192 || b[1].Major != 254 {
		t.Errorf("version 1, block I/O: %v", b)
	}

	host2 := &v2.Metrics{CPU: &v2.CPUStat{UsageUsec: 1 << 40, NrPeriods: 5, NrThrottled: 1, ThrottledUsec: 8}, Memory: &v2.MemoryStat{Usage: 300 * mib}}
	m2 := Container(counted, host2, 256*mib).(*v2.Metrics)
	if m2.Pids.Current != 4 || m2.CPU.UsageUsec != 30 || m2.CPU.SystemUsec != 10 || m2.CPU.NrPeriods != 5 || m2.CPU.ThrottledUsec != 8 ||
		m2.Memory.Usage != 50*mib || m2.Memory.UsageLimit != 256*mib || m2.Memory.InactiveFile != 7 || m2.Memory.Anon != 11 ||
		m2.Memory.Pgmajfault != 3 || m2.MemoryEvents.OomKill != 2 || m2.Io.Usage[0].Wbytes != 8192 || m2.Network[0].RxBytes != 1500 {
		t.Errorf("version 2: %v", m2)
	}

	limited := counted
	limited.Memory.Limit = 64 * mib
	if m := Container(limited, host2, 256*mib).(*v2.Metrics); m.Memory.UsageLimit != 64*mib {
		t.Errorf("a limit below the RAM: %d", m.Memory.UsageLimit)
	}
	limited.Memory.Limit = 1 << 60
	if m := Container(limited, host1, 256*mib).(*v1.Metrics); m.Memory.Usage.Limit != 256*mib {
		t.Errorf("a limit beyond the RAM: %d", m.Memory.Usage.Limit)
	}
	// Numbers from a guest that said nothing are none, not a crash.
	if m := Container(unikernel.Stats{}, &v1.Metrics{}, 1).(*v1.Metrics); m.Memory.Usage == nil || m.CPU.Usage == nil {
		t.Errorf("nothing counted: %v", m)
	}
}

// A guest that counts nothing is one program that uses no more than its RAM.
func TestMachine(t *testing.T) {
	host1 := &v1.Metrics{Memory: &v1.MemoryStat{Usage: &v1.MemoryEntry{Usage: 300 * mib, Max: 310 * mib, Limit: 512 * mib}}, Pids: &v1.PidsStat{Current: 17}}
	m1 := Machine(host1, 256*mib).(*v1.Metrics)
	if m1.Pids.Current != 1 || m1.Memory.Usage.Usage != 256*mib || m1.Memory.Usage.Limit != 256*mib || host1.Pids.Current != 17 {
		t.Errorf("version 1: %v", m1)
	}
	m2 := Machine(&v2.Metrics{Memory: &v2.MemoryStat{Usage: 30 * mib, UsageLimit: 512 * mib}}, 256*mib).(*v2.Metrics)
	if m2.Pids.Current != 1 || m2.Memory.Usage != 30*mib || m2.Memory.UsageLimit != 256*mib {
		t.Errorf("version 2: %v", m2)
	}
	if m := Machine(&v2.Metrics{}, 1).(*v2.Metrics); m.Pids.Current != 1 {
		t.Errorf("without a memory controller: %v", m)
	}
}
