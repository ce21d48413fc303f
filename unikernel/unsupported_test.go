package unikernel

import (
	"errors"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCheckUnsupported(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*specs.Spec)
		says   string // empty: taken
	}{
		{"nothing", func(*specs.Spec) {}, ""},
		{"the default scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther} }, ""},
		{"scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 10} }, "SCHED_FIFO"},
		{"nice", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 5} }, "nice(1)"},
		{"I/O priority", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }, "ionice"},
		{"affinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"} }, "taskset"},
		{"time offsets", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1}} }, "timeOffsets"},
		{"time namespace", func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.TimeNamespace}} }, "time namespaces"},
		{"its own personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux} }, ""},
		{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }, "setarch"},
		{"memory policy", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind} }, "memoryPolicy"},
		{"slave", func(s *specs.Spec) { s.Linux.RootfsPropagation = "rslave" }, ""},
		{"shared", func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" }, "rshared"},
	} {
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		tt.change(s)
		err := CheckUnsupported(s)
		if tt.says == "" && err != nil || tt.says != "" && (!errors.Is(err, ErrNotImplemented) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestUnlimitedResources(t *testing.T) {
	n := int64(1)
	r := &specs.LinuxResources{
		BlockIO: &specs.LinuxBlockIO{}, HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}},
		Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{}}}, Rdma: map[string]specs.LinuxRdma{"a": {}},
		Unified: map[string]string{"memory.high": "1"}, CPU: &specs.LinuxCPU{RealtimeRuntime: &n},
	}
	if got := UnlimitedResources(r); len(got) != 6 {
		t.Errorf("%q", got)
	}
	// What containerd and the kubelet write for every container.
	usual := &specs.LinuxResources{
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}, Network: &specs.LinuxNetwork{},
		Devices: []specs.LinuxDeviceCgroup{{}}, CPU: &specs.LinuxCPU{Shares: new(uint64)}, Pids: &specs.LinuxPids{Limit: &n},
	}
	if got := slices.Concat(UnlimitedResources(usual), UnlimitedResources(nil)); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
