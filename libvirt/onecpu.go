package libvirt

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// onOneCPU runs f in a thread that is bound to one processor, always the same.
//
// libvirt's driver notes, when it starts, what CPUID says, and takes the cache of
// what QEMU can do for outdated if that has changed. On AMD's processors part of
// the answer is the processor's own number, which libvirt 11.3 does not leave
// out (log: "host cpuid changed"): without this most starts would probe QEMU, for
// seconds.
func onOneCPU(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return f()
	}
	for cpu := 0; one.Count() == 0 && cpu < len(all)*64; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return f()
	}
	defer unbind(one, all)
	return f()
}

// unbind gives all threads that are bound to the set one the set all: threads
// that were made meanwhile have it from the one that made them.
func unbind(one, all unix.CPUSet) {
	_ = unix.SchedSetaffinity(0, &all)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		var set unix.CPUSet
		tid, err := strconv.Atoi(t.Name())
		if err == nil && unix.SchedGetaffinity(tid, &set) == nil && set == one {
			_ = unix.SchedSetaffinity(tid, &all)
		}
	}
}
