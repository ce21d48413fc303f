package watch

import (
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Check refuses what no guest can honour that is watched, in the guest's own
// words, see Guest.Refuse.
func Check(s *specs.Spec, refuse func(what string) error) error {
	switch {
	case s == nil || s.Process == nil || s.Linux == nil:
		return fmt.Errorf("%w: the specification has no process or no linux section", unikernel.ErrInvalid)
	case s.Process.Terminal:
		return refuse("no terminals")
	case s.Hooks != nil && len(s.Hooks.StartContainer) > 0:
		return refuse("no place to run startContainer hooks")
	case len(s.Linux.UIDMappings) > 0 || len(s.Linux.GIDMappings) > 0:
		return refuse("no users to map")
	}
	for _, m := range s.Mounts {
		if !strings.HasPrefix(m.Destination, "/") {
			return fmt.Errorf("%w: mount destination %q is not absolute", unikernel.ErrInvalid, m.Destination)
		}
	}
	if err := checkNamespaces(s.Linux.Namespaces); err != nil {
		return err
	}
	return unikernel.CheckUnsupported(s)
}

// checkNamespaces wants namespaces of the container's own. Only the network's
// may have a path: the host connects the machine to it.
func checkNamespaces(list []specs.LinuxNamespace) error {
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range list {
		have[ns.Type] = true
		if ns.Path != "" && ns.Type != specs.NetworkNamespace {
			return fmt.Errorf("%w: a machine cannot join the %s namespace %s", unikernel.ErrNotImplemented, ns.Type, ns.Path)
		}
	}
	for _, t := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !have[t] {
			return fmt.Errorf("%w: a machine has a kernel of its own and cannot share the host's %s namespace", unikernel.ErrNotImplemented, t)
		}
	}
	return nil
}
