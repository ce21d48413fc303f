package main

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestMachineProfile: a list of what is allowed, without what reaches other processes.
func TestMachineProfile(t *testing.T) {
	p := machineProfile()
	if p.DefaultAction != specs.ActErrno {
		t.Errorf("what is not listed is %s", p.DefaultAction)
	}
	allowed := func(name string) bool {
		return slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, name)
		})
	}
	for _, name := range append(slices.Clone(beforeQEMU), "read", "execve", "ioctl", "clone") {
		if !allowed(name) {
			t.Errorf("%s is not allowed", name)
		}
	}
	for _, name := range append(slices.Clone(ofOthers), "bpf", "io_uring_setup", "userfaultfd", "keyctl", "init_module", "open_by_handle_at") {
		if allowed(name) {
			t.Errorf("%s is allowed", name)
		}
	}
	program, err := systemCalls()
	if err != nil || len(program) == 0 {
		t.Errorf("a program of %d bytes, %v", len(program), err)
	}
}
