package metrics

import (
	"containerd-shim-uni/unikernel"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
)

// Container returns what a guest counted, in the type of host, which is what
// the host counted of the machine. RAM is the machine's in bytes.
func Container(s unikernel.Stats, host proto.Message, ram uint64) proto.Message {
	if s.Memory.Limit == 0 || s.Memory.Limit > ram {
		s.Memory.Limit = ram
	}
	switch h := host.(type) {
	case *v1.Metrics:
		m := legacy(s)
		m.CPU.Throttling = h.GetCPU().GetThrottling()
		return m
	case *v2.Metrics:
		m := unified(s)
		cpu := h.GetCPU()
		m.CPU.NrPeriods, m.CPU.NrThrottled, m.CPU.ThrottledUsec = cpu.GetNrPeriods(), cpu.GetNrThrottled(), cpu.GetThrottledUsec()
		return m
	default:
		return host
	}
}

// Machine returns what is known of a container whose guest counts nothing: it
// is one program that cannot use more than the machine's RAM, whatever QEMU
// uses beside it.
func Machine(host proto.Message, ram uint64) proto.Message {
	switch h := host.(type) {
	case *v1.Metrics:
		m := proto.CloneOf(h)
		m.Pids = &v1.PidsStat{Current: 1}
		if u := m.GetMemory().GetUsage(); u != nil {
			u.Usage, u.Max, u.Limit = min(u.Usage, ram), min(u.Max, ram), ram
			m.Memory.HierarchicalMemoryLimit = ram
		}
		return m
	case *v2.Metrics:
		m := proto.CloneOf(h)
		m.Pids = &v2.PidsStat{Current: 1}
		if u := m.GetMemory(); u != nil {
			u.Usage, u.MaxUsage, u.UsageLimit = min(u.Usage, ram), min(u.MaxUsage, ram), ram
		}
		return m
	default:
		return host
	}
}

// unified is in the terms of version 2, which the guest's are too.
func unified(s unikernel.Stats) *v2.Metrics {
	mem, events := s.Memory.Stat, s.Memory.Events
	m := &v2.Metrics{
		Pids: &v2.PidsStat{Current: s.Pids, Limit: s.PidsLimit},
		CPU:  &v2.CPUStat{UsageUsec: s.CPU.Usage, UserUsec: s.CPU.User, SystemUsec: s.CPU.System},
		Memory: &v2.MemoryStat{
			Usage: s.Memory.Usage, UsageLimit: s.Memory.Limit, MaxUsage: s.Memory.Peak,
			Anon: mem["anon"], File: mem["file"], KernelStack: mem["kernel_stack"], Slab: mem["slab"], Sock: mem["sock"],
			Shmem: mem["shmem"], FileMapped: mem["file_mapped"], FileDirty: mem["file_dirty"], FileWriteback: mem["file_writeback"],
			AnonThp: mem["anon_thp"], InactiveAnon: mem["inactive_anon"], ActiveAnon: mem["active_anon"],
			InactiveFile: mem["inactive_file"], ActiveFile: mem["active_file"], Unevictable: mem["unevictable"],
			SlabReclaimable: mem["slab_reclaimable"], SlabUnreclaimable: mem["slab_unreclaimable"],
			Pgfault: mem["pgfault"], Pgmajfault: mem["pgmajfault"], Pgrefill: mem["pgrefill"], Pgscan: mem["pgscan"],
			Pgsteal: mem["pgsteal"], Pgactivate: mem["pgactivate"], Pgdeactivate: mem["pgdeactivate"],
			Pglazyfree: mem["pglazyfree"], Pglazyfreed: mem["pglazyfreed"],
			WorkingsetRefault:     mem["workingset_refault_anon"] + mem["workingset_refault_file"],
			WorkingsetActivate:    mem["workingset_activate_anon"] + mem["workingset_activate_file"],
			WorkingsetNodereclaim: mem["workingset_nodereclaim"],
			ThpFaultAlloc:         mem["thp_fault_alloc"], ThpCollapseAlloc: mem["thp_collapse_alloc"],
		},
		MemoryEvents: &v2.MemoryEvents{Low: events["low"], High: events["high"], Max: events["max"],
			Oom: events["oom"], OomKill: events["oom_kill"], OomGroupKill: events["oom_group_kill"]},
		Io: &v2.IOStat{},
	}
	for _, b := range s.Block {
		m.Io.Usage = append(m.Io.Usage, &v2.IOEntry{Major: b.Major, Minor: b.Minor,
			Rbytes: b.ReadBytes, Wbytes: b.WriteBytes, Rios: b.Reads, Wios: b.Writes})
	}
	for _, n := range s.Network {
		m.Network = append(m.Network, &v2.NetworkStat{Name: n.Name,
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped})
	}
	return m
}

// legacy is in the terms of version 1. There is one container, so its numbers
// and those of all below it ("total") are the same.
func legacy(s unikernel.Stats) *v1.Metrics {
	const ns = 1000 // a µs
	mem := s.Memory.Stat
	kernel := mem["kernel"]
	m := &v1.Metrics{
		Pids: &v1.PidsStat{Current: s.Pids, Limit: s.PidsLimit},
		CPU:  &v1.CPUStat{Usage: &v1.CPUUsage{Total: s.CPU.Usage * ns, Kernel: s.CPU.System * ns, User: s.CPU.User * ns}},
		Memory: &v1.MemoryStat{
			Cache: mem["file"], RSS: mem["anon"], RSSHuge: mem["anon_thp"], MappedFile: mem["file_mapped"],
			Dirty: mem["file_dirty"], Writeback: mem["file_writeback"], PgFault: mem["pgfault"], PgMajFault: mem["pgmajfault"],
			InactiveAnon: mem["inactive_anon"], ActiveAnon: mem["active_anon"],
			InactiveFile: mem["inactive_file"], ActiveFile: mem["active_file"], Unevictable: mem["unevictable"],
			TotalCache: mem["file"], TotalRSS: mem["anon"], TotalRSSHuge: mem["anon_thp"], TotalMappedFile: mem["file_mapped"],
			TotalDirty: mem["file_dirty"], TotalWriteback: mem["file_writeback"], TotalPgFault: mem["pgfault"], TotalPgMajFault: mem["pgmajfault"],
			TotalInactiveAnon: mem["inactive_anon"], TotalActiveAnon: mem["active_anon"],
			TotalInactiveFile: mem["inactive_file"], TotalActiveFile: mem["active_file"], TotalUnevictable: mem["unevictable"],
			HierarchicalMemoryLimit: s.Memory.Limit, HierarchicalSwapLimit: s.Memory.Limit,
			Usage: &v1.MemoryEntry{Usage: s.Memory.Usage, Limit: s.Memory.Limit, Max: s.Memory.Peak, Failcnt: s.Memory.Events["max"]},
			// Version 1 counts memory and swap together.
			Swap:      &v1.MemoryEntry{Usage: s.Memory.Usage, Limit: s.Memory.Limit, Max: s.Memory.Peak},
			Kernel:    &v1.MemoryEntry{Usage: kernel},
			KernelTCP: &v1.MemoryEntry{Usage: mem["sock"]},
		},
		MemoryOomControl: &v1.MemoryOomControl{OomKill: s.Memory.Events["oom_kill"]},
		Blkio:            &v1.BlkIOStat{},
	}
	for _, b := range s.Block {
		entry := func(op string, n uint64) *v1.BlkIOEntry {
			return &v1.BlkIOEntry{Op: op, Major: b.Major, Minor: b.Minor, Value: n}
		}
		m.Blkio.IoServiceBytesRecursive = append(m.Blkio.IoServiceBytesRecursive, entry("Read", b.ReadBytes), entry("Write", b.WriteBytes))
		m.Blkio.IoServicedRecursive = append(m.Blkio.IoServicedRecursive, entry("Read", b.Reads), entry("Write", b.Writes))
	}
	for _, n := range s.Network {
		m.Network = append(m.Network, &v1.NetworkStat{Name: n.Name,
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped})
	}
	return m
}
