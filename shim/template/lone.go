package template

import (
	"fmt"

	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/template/order"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Lone is the machine of a container that is alone, shares no directory and asks for
// nothing special.
func Lone(c order.Container, guest unikernel.Guest) (unikernel.Machine, error) {
	spec := &specs.Spec{
		Process: &specs.Process{Args: []string{"/init"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs", Readonly: c.ReadOnly},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace},
			{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}}},
	}
	plan, err := guest.Plan(unikernel.App{Spec: spec}, c.Resources)
	if err != nil {
		return unikernel.Machine{}, err
	}
	if !plan.Parks {
		return unikernel.Machine{}, fmt.Errorf("%w: machines of the guest %q boot", unikernel.ErrNotImplemented, guest.Name())
	}
	h := sandbox.Hardware{Boot: plan.Boot}
	for _, d := range plan.Disks {
		h.Disks = append(h.Disks, unikernel.Disk{ReadOnly: d.Kind == unikernel.DiskRoot})
	}
	m := h.Describe()
	for range c.Interfaces {
		m.NICs = append(m.NICs, unikernel.NIC{Queues: max(plan.Queues, 1)})
	}
	return m.Neutral("/"), nil
}
