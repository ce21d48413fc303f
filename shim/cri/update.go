package cri

import (
	"encoding/json"
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Name and type of the extension by which containerd's CRI tells a sandbox's new limits
// (internal/cri/server/podsandbox/helpers.go of containerd 2.4).
const (
	extensionResources = "updated-resources"
	typeResources      = "io.containerd.cri.v1/UpdatedResources"
)

// Updated reads the limits that a pod is to have, the sums of those of its containers,
// out of an update of its sandbox; nil if it tells none. -1 and 0 are none.
func Updated(s *types.Sandbox) (*specs.LinuxResources, error) {
	extension, ok := s.GetExtensions()[extensionResources]
	if !ok {
		return nil, nil
	}
	if !strings.HasSuffix(extension.GetTypeUrl(), typeResources) {
		return nil, fmt.Errorf("%w: the extension %q is of the type %q, known is %q", unikernel.ErrInvalid, extensionResources, extension.GetTypeUrl(), typeResources)
	}
	var told struct {
		Resources *runtime.LinuxContainerResources
	}
	if err := json.Unmarshal(extension.GetValue(), &told); err != nil {
		return nil, fmt.Errorf("extension %q: %w: %w", extensionResources, unikernel.ErrInvalid, err)
	}
	r := told.Resources
	if r == nil {
		return nil, nil
	}
	period := uint64(max(r.CpuPeriod, 0))
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &r.MemoryLimitInBytes},
		CPU:    &specs.LinuxCPU{Quota: &r.CpuQuota, Period: &period},
	}, nil
}
