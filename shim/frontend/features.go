package frontend

import (
	"encoding/json"

	"containerd-shim-uni/unikernel/linux/wire"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/types/known/anypb"
)

// featuresType is the URL by which containerd knows the type (its pkg/oci and
// the client's init function, containerd/typeurl).
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// runtimeFeatures is what the runtime honours of a specification. Where a guest
// can do less, it says so when a container asks.
func runtimeFeatures() (*anypb.Any, error) {
	yes, no := true, false
	value, err := json.Marshal(features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: "1.3.0",
		Hooks:         []string{"prestart", "createRuntime", "poststart", "poststop"},
		MountOptions:  wire.MountOptions,
		Linux: &features.Linux{
			Namespaces: []string{"cgroup", "ipc", "mount", "network", "pid", "uts"},
			Cgroup:     &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &no},
			Seccomp: &features.Seccomp{ // see unikernel/linux/seccomp.go
				Enabled: &yes,
				Actions: []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
					"SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"},
				Operators: []string{"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"},
				Archs:     []string{"SCMP_ARCH_X86_64"},
			},
			Apparmor: &features.Apparmor{Enabled: &no},
			Selinux:  &features.Selinux{Enabled: &no},
			IntelRdt: &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{
				IDMap: &features.IDMap{Enabled: &no},
			},
			NetDevices: &features.NetDevices{Enabled: &no},
		},
	})
	return &anypb.Any{TypeUrl: featuresType, Value: value}, err
}
