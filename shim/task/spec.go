package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/hooks"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const mib = 1 << 20

// readSpec reads a bundle's config.json.
func readSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w: %w", unikernel.ErrInvalid, err)
	}
	defer f.Close()
	var spec specs.Spec
	if err := json.NewDecoder(f).Decode(&spec); err != nil {
		return nil, fmt.Errorf("bundle: %s: %w: %w", path, unikernel.ErrInvalid, err)
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("bundle: %s: %w: it has no process", path, unikernel.ErrInvalid)
	}
	if err := hooks.Check(spec.Hooks); err != nil {
		return nil, fmt.Errorf("bundle: %s: %w", path, err)
	}
	return &spec, nil
}

// networkNamespace returns the path of the network namespace the container is
// to join; empty for a new one of its own.
func networkNamespace(spec *specs.Spec) (string, error) {
	if spec.Linux == nil {
		return "", nil
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type != specs.NetworkNamespace {
			continue
		}
		if strings.HasPrefix(ns.Path, "/proc/") {
			return "", fmt.Errorf("%w: the container is to join the network of another process (%s); a machine takes the interfaces over, and that process would lose them: give the container a network of its own", unikernel.ErrNotImplemented, ns.Path)
		}
		return ns.Path, nil
	}
	return "", fmt.Errorf("%w: the container asks for the host's network, which a machine cannot share; give it a network namespace", unikernel.ErrNotImplemented)
}

// cgroupsPath returns the specification's cgroup, or "".
func cgroupsPath(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// cpuLimits returns the specification's limits of CPU, or nil.
func cpuLimits(spec *specs.Spec) *specs.LinuxCPU {
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return nil
	}
	return spec.Linux.Resources.CPU
}

// memoryLimit returns the specification's limit of memory in bytes, or 0.
func memoryLimit(spec *specs.Spec) int64 {
	if spec.Linux == nil || spec.Linux.Resources == nil || spec.Linux.Resources.Memory == nil ||
		spec.Linux.Resources.Memory.Limit == nil {
		return 0
	}
	return max(*spec.Linux.Resources.Memory.Limit, 0) // -1 is no limit
}

// resources returns the size of a container's machine: RAM is the memory limit
// rounded down to MiB, and there are as many CPUs as the quota allows, or the
// CPU set names, each before the configuration's defaults.
func resources(spec *specs.Spec, cfg config.Machine) (unikernel.Resources, error) {
	r := unikernel.Resources{MemoryMiB: cfg.MemoryMiB, VCPUs: cfg.VCPUs}
	if limit := memoryLimit(spec); limit > 0 && limit/mib < maxMemoryMiB {
		r.MemoryMiB = int(limit / mib)
	}
	cpu := cpuLimits(spec)
	switch {
	case cpu == nil:
	case cpu.Quota != nil && *cpu.Quota > 0:
		period := uint64(defaultPeriod)
		if cpu.Period != nil && *cpu.Period > 0 {
			period = *cpu.Period
		}
		r.VCPUs = int(min((uint64(*cpu.Quota)+period-1)/period, maxVCPUs))
	case cpu.Cpus != "":
		n, err := countCPUs(cpu.Cpus)
		if err != nil {
			return r, fmt.Errorf("CPU set %q: %w: %w", cpu.Cpus, unikernel.ErrInvalid, err)
		}
		r.VCPUs = min(n, maxVCPUs)
	}
	return r, nil
}

const (
	// defaultPeriod is the kernel's default CFS period, in microseconds.
	defaultPeriod = 100_000
	// maxVCPUs is what machines can have (config's limit too).
	maxVCPUs = 255
	// maxMemoryMiB: a limit beyond is no limit; cgroup v1 writes "none" as
	// 2^63 rounded down to a page.
	maxMemoryMiB = 16 << 20
)

// countCPUs returns how many CPUs a list such as "0-3,7" names (cpuset(7)).
func countCPUs(list string) (int, error) {
	n := 0
	for _, part := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return 0, err
		}
		last := first
		if isRange {
			if last, err = strconv.ParseUint(high, 10, 16); err != nil {
				return 0, err
			}
		}
		if last < first {
			return 0, errors.New("a range ends before it begins")
		}
		n += int(last-first) + 1
	}
	return n, nil
}

// Pod returns the pod that a bundle's container is in, see podOf; empty where the
// bundle does not tell.
func Pod(bundle string) string {
	spec, err := readSpec(bundle)
	if err != nil {
		return ""
	}
	pod, _ := podOf(spec.Annotations)
	return pod
}

// NetworkNamespace returns the path of the network namespace that a bundle's
// container joined, or "".
func NetworkNamespace(bundle string) string {
	spec, err := readSpec(bundle)
	if err != nil {
		return ""
	}
	path, _ := networkNamespace(spec)
	return path
}
