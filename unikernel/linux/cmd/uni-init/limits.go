package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// The kernel makes many of its limits of the size of memory, so that what programs
// find on a host they would not find in a small machine. These are what an ordinary
// host has, of 16 GiB and with systemd; memory is limited by itself.
var usualSysctls = [][2]string{
	{"fs/file-max", "9223372036854775807"}, // systemd's; each process has RLIMIT_NOFILE
	{"fs/inotify/max_user_instances", "1024"},
	{"fs/inotify/max_user_watches", "524288"},
	{"kernel/pid_max", "4194304"}, // systemd's
	{"kernel/threads-max", "127000"},
	{"net/netfilter/nf_conntrack_max", "65536"}, // a host of 1 GiB: these take memory that no container is charged
	// Databases and Java's collectors want more than the kernel's 65530, and cannot
	// set it in a container; distributions have begun to.
	{"vm/max_map_count", "1048576"},
}

// usualLimits are what a process inherits unless its specification says otherwise, by
// systemd's numbers for a service, or as many as a host of that size gives.
var usualLimits = []struct {
	resource int
	limit    unix.Rlimit
}{
	{unix.RLIMIT_NOFILE, unix.Rlimit{Cur: 1024, Max: 512 << 10}},
	{unix.RLIMIT_NPROC, unix.Rlimit{Cur: 63500, Max: 63500}},
	{unix.RLIMIT_SIGPENDING, unix.Rlimit{Cur: 63500, Max: 63500}},
}

// raiseLimits sets both; a sysctl is never lowered. What a kernel does not have it
// cannot limit.
func raiseLimits() {
	for _, kv := range usualSysctls {
		path := "/proc/sys/" + kv[0]
		if now, err := os.ReadFile(path); err == nil && less(trimLine(now), kv[1]) {
			os.WriteFile(path, []byte(kv[1]), 0)
		}
	}
	for _, l := range usualLimits {
		unix.Setrlimit(l.resource, &l.limit)
	}
}

// less compares decimal numbers without leading zeroes, of any size.
func less(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }
