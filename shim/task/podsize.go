package task

import (
	"fmt"
	"math"
	"strconv"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// guestOwnMiB is what the linux guest needs for itself beside its containers, in MiB:
// what the least machine has that boots (linux.MinMemoryMiB).
const guestOwnMiB = 40

// podSize returns the size of a pod's machine. Which containers it will hold nobody
// tells before, but for the sums of their limits, to which one without a limit adds
// nothing. That all have one shows in the cgroup that is the pod's on the host: the
// kubelet limits it only then. A pod without is as large as the sum and the
// configuration say, whichever is more; memory that is not used costs the host
// nothing. What is asked for by limits cannot be more than ram, the bytes that the host
// has: it is refused, as such a machine would end when its memory is used.
func podSize(spec *specs.Spec, above cgroup.Bounds, cfg config.Pod, ram int64) (unikernel.Resources, error) {
	size := unikernel.Resources{MemoryMiB: cfg.MemoryMiB, VCPUs: cfg.VCPUs}
	var sum [3]int64
	for i, name := range []string{annotationMemory, annotationCPUQuota, annotationCPUPeriod} {
		text, there := spec.Annotations[name]
		if !there {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return size, fmt.Errorf("%w: annotation %s: %q is not a number", unikernel.ErrInvalid, name, text)
		}
		sum[i] = max(n, 0) // -1 is no limit
	}
	memory, quota, period := sum[0], sum[1], sum[2]
	if above.MemoryBytes > 0 {
		if memory == 0 {
			memory = above.MemoryBytes
		}
		size.MemoryMiB = 0
	}
	if memory > ram {
		return size, fmt.Errorf("%w: the limits of the pod's containers are %d MiB of memory together, and the host has %d MiB: lower them, or run the pod on a larger node",
			unikernel.ErrInvalid, memory/mib, ram/mib)
	}
	if memory > 0 {
		size.MemoryMiB = max(size.MemoryMiB, int(min((memory+mib-1)/mib+guestOwnMiB, maxMemoryMiB)))
	}
	cpus := 0.0
	if quota > 0 {
		if period == 0 {
			period = defaultPeriod
		}
		cpus = float64(quota) / float64(period)
	}
	if above.CPUs > 0 {
		if cpus == 0 {
			cpus = above.CPUs
		}
		size.VCPUs = 1
	}
	size.VCPUs = max(size.VCPUs, int(min(math.Ceil(cpus), maxVCPUs)))
	return size, nil
}

// hostRAM is how many bytes of memory the host has.
func hostRAM() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("sysinfo: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit), nil
}

// abovePod are the bounds of the cgroup that a pod's own container is in.
func abovePod(spec *specs.Spec, names Names) (cgroup.Bounds, error) {
	if cgroupsPath(spec) == "" {
		return cgroup.Bounds{}, nil
	}
	at, err := cgroup.PlaceOf(cgroupsPath(spec), names.Namespace, names.ID)
	if err != nil {
		return cgroup.Bounds{}, err
	}
	return cgroup.Above(at.Path), nil
}
