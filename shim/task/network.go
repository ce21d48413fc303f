package task

import (
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"
)

// withoutNetwork refuses what it would have to connect.
type withoutNetwork struct{ Networks }

// WithoutNetwork returns networks that refuse, with unikernel.ErrNotImplemented,
// every namespace in which there is anything to take over: better no container
// than one without the network it was promised.
func WithoutNetwork(n Networks) Networks { return withoutNetwork{n} }

func (w withoutNetwork) Look(path string) (unikernel.Network, error) {
	found, err := w.Networks.Look(path)
	if err != nil || len(found.Interfaces) == 0 {
		return unikernel.Network{}, err
	}
	names := make([]string, len(found.Interfaces))
	for i, nic := range found.Interfaces {
		names[i] = nic.Name
	}
	return unikernel.Network{}, fmt.Errorf("%w: network namespace %s has interfaces (%s), and machines have no network yet; start the container without network",
		unikernel.ErrNotImplemented, path, strings.Join(names, ", "))
}
