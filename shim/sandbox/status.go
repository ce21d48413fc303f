package sandbox

import (
	"maps"
	"os"
	"strconv"
	"strings"

	"containerd-shim-uni/shim/status"
)

// Describe says what there is to say of the machine itself. It asks nobody.
func (s *Sandbox) Describe() status.Machine {
	pid := s.vm.id()
	s.mu.Lock()
	defer s.mu.Unlock()
	m := status.Machine{
		Namespace: s.names.Namespace, ID: s.names.ID, State: s.state.String(),
		VCPUs: s.spec.Size.VCPUs, MemoryMiB: s.spec.Size.MemoryMiB, Type: s.hardware.Machine,
		NetNS: s.netns, Pid: pid, Shim: os.Getpid(), Stages: maps.Clone(s.stages),
	}
	if s.guest != nil {
		m.Guest = s.guest.Name()
	}
	if s.machines != nil {
		m.Emulated = s.machines.Emulated()
	}
	select {
	case <-s.ended:
		m.End = s.end.Reason.String()
	default:
		m.Resident = resident(pid)
	}
	return m
}

// resident is what a process has of the host's memory in bytes (proc_pid_statm(5)),
// and 0 if that cannot be told.
func resident(pid int) uint64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
