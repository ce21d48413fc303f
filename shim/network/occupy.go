package network

import "containerd-shim-uni/shim/standin"

// Occupy starts a process that stands for a container in the network namespace
// at path, see standin.Start.
func (Linker) Occupy(path, title string) (pid int, end func(), err error) {
	return standin.Start(path, title)
}
