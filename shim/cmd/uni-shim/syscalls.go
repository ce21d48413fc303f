package main

import (
	"slices"
	"sync"

	"containerd-shim-uni/unikernel/linux"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What a machine's processes may ask of the host's kernel is what containerd lets a
// container do that has no privileges, with two differences: nothing of other
// processes, and what libvirt needs between fork and exec of QEMU. Those calls want
// capabilities, which QEMU has not, and QEMU's own filter refuses most.
var (
	beforeQEMU = []string{"mount", "umount2", "unshare", "setns"}
	ofOthers   = []string{"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"}
)

// systemCalls is the list of what is allowed, as seccomp(2) takes it.
var systemCalls = sync.OnceValues(func() ([]byte, error) {
	return linux.SeccompProgram(machineProfile())
})

func machineProfile() *specs.LinuxSeccomp {
	profile := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	for i := range profile.Syscalls {
		profile.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(profile.Syscalls[i].Names), func(name string) bool {
			return slices.Contains(ofOthers, name)
		})
	}
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: beforeQEMU, Action: specs.ActAllow})
	return profile
}
