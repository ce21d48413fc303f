package unikernel

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CheckUnsupported refuses what a specification asks for and no guest honours:
// a program would notice.
func CheckUnsupported(s *specs.Spec) error {
	if s.Process != nil {
		if err := CheckProcess(s.Process); err != nil {
			return err
		}
	}
	l := s.Linux
	if l == nil {
		return nil
	}
	isTime := func(ns specs.LinuxNamespace) bool { return ns.Type == specs.TimeNamespace }
	switch {
	case len(l.TimeOffsets) > 0 || slices.ContainsFunc(l.Namespaces, isTime):
		return unsupported("timeOffsets and time namespaces", "the machine's clocks are its own, and show the host's time")
	case l.Personality != nil && l.Personality.Domain != "" && l.Personality.Domain != specs.PerLinux:
		return unsupported(fmt.Sprintf("personality %s", l.Personality.Domain), "start the program with setarch(8)")
	case l.MemoryPolicy != nil && l.MemoryPolicy.Mode != specs.MpolDefault:
		return unsupported("memoryPolicy", "a machine has one memory node")
	}
	switch l.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave": // nothing of the host's can reach the machine
	default:
		return unsupported(fmt.Sprintf("rootfsPropagation %q", l.RootfsPropagation), "mounts of a machine cannot reach the host")
	}
	return nil
}

// CheckProcess is CheckUnsupported for one process.
func CheckProcess(p *specs.Process) error {
	switch s := p.Scheduler; {
	case s != nil && (s.Policy != specs.SchedOther || s.Nice != 0 || len(s.Flags) > 0):
		return unsupported(fmt.Sprintf("scheduler %s", s.Policy), "start the program with chrt(1) or nice(1)")
	case p.IOPriority != nil:
		return unsupported("ioPriority", "start the program with ionice(1); on the host it would concern all of the machine")
	case p.ExecCPUAffinity != nil:
		return unsupported("execCPUAffinity", "start the program with taskset(1), which names the machine's CPUs")
	}
	return nil
}

func unsupported(what, why string) error {
	return fmt.Errorf("%w: %s: %s", ErrNotImplemented, what, why)
}

// UnlimitedResources lists the limits of a specification that nothing enforces,
// for the log: the program does not notice.
func UnlimitedResources(r *specs.LinuxResources) (list []string) {
	if r == nil {
		return nil
	}
	if r.BlockIO != nil {
		list = append(list, "limits of block I/O")
	}
	if slices.ContainsFunc(r.HugepageLimits, func(h specs.LinuxHugepageLimit) bool { return h.Limit > 0 }) {
		list = append(list, "limits of huge pages")
	}
	if r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0) {
		list = append(list, "network class and priorities")
	}
	if len(r.Rdma) > 0 {
		list = append(list, "limits of RDMA")
	}
	if len(r.Unified) > 0 {
		list = append(list, "cgroup files (unified)")
	}
	if c := r.CPU; c != nil && (c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 || c.RealtimePeriod != nil && *c.RealtimePeriod != 0) {
		list = append(list, "CPU time for real-time processes")
	}
	return list
}
