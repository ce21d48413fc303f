package unikernel

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Stats are what a guest's kernel counted for a container, in the terms of
// Linux' cgroups, version 2. What the guest does not count is zero or missing.
type Stats struct {
	CPU    CPUStats
	Memory MemoryStats
	// Pids is the number of processes and threads, PidsLimit the most there can
	// be; 0 is no limit.
	Pids, PidsLimit uint64
	Block           []BlockStats
	Network         []NetworkStats
}

// CPUStats are times in µs.
type CPUStats struct{ Usage, User, System uint64 }

// MemoryStats are sizes in bytes.
type MemoryStats struct {
	// Usage is what the container uses now, its part of the page cache included,
	// Peak the most it ever did. Limit is 0 if only the machine's RAM limits it.
	Usage, Peak, Limit uint64
	// Stat is what memory.stat tells, Events what memory.events does.
	Stat, Events map[string]uint64
}

// BlockStats are what was done with one disk.
type BlockStats struct {
	Major, Minor                         uint64
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// NetworkStats are what went through one interface.
type NetworkStats struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Limits are limits that can change while the container runs. Nil pointers
// leave what is in force.
type Limits struct {
	// Memory is in bytes, Pids a number of processes and threads; 0 is no limit.
	Memory, Pids *uint64
	// CPU are all limits of CPU: quota, period and shares count, and one that is nil
	// is none.
	CPU *specs.LinuxCPU
}

// Freezer is a ContainerSession whose processes can be stopped while others of the
// machine run.
type Freezer interface {
	// Freeze stops all processes of the container, or lets them go on, and returns
	// when it is so. One that ends, or that SIGKILL ends, ends also while it is frozen.
	Freeze(ctx context.Context, frozen bool) error
}

// Accountant is a Session, or a ContainerSession, whose guest counts what the
// container uses, and limits it.
type Accountant interface {
	Stats(context.Context) (Stats, error)
	Limit(context.Context, Limits) error
}
