package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/unikernel"
)

// Names are the places of one container on the host. All follow from its
// namespace, its id and the configuration, so nothing has to be remembered to
// find them.
type Names struct {
	Namespace, ID string
	// Data is the directory of the container's disks.
	Data string
	// Sandbox are those of the sandbox it is in.
	Sandbox sandbox.Names
}

// NewNames returns the names of a container in a pod, or with an empty one in a
// sandbox of its own.
func NewNames(storage config.Storage, namespace, id, pod string) Names {
	if pod == "" {
		pod = id
	}
	return Names{
		Namespace: namespace, ID: id,
		Data:    filepath.Join(storage.DataDir, "containers", unikernel.Key(namespace, id)),
		Sandbox: sandbox.NewNames(storage, namespace, pod),
	}
}

// ShimDir is the directory of what the shim of a group has for itself: its libvirt. No
// container's id holds a slash, so it is no container's directory.
func ShimDir(storage config.Storage, namespace, group string) string {
	return filepath.Join(storage.StateDir, unikernel.Key(namespace, "shim/"+group))
}

// member returns the names of another container in the sandbox.
func (n Names) member(id string) Names {
	m := n
	m.ID, m.Data = id, filepath.Join(filepath.Dir(n.Data), unikernel.Key(n.Namespace, id))
	return m
}

// own are the names of a sandbox of the container's own, see solo.
func (n Names) own() sandbox.Names { return n.Sandbox.Sibling(n.ID) }

// Machines are the names of the machines that may be there of the container, and with a
// pod's own of the others in it.
func (n Names) Machines() []string {
	domains := []string{n.Sandbox.Domain()}
	all := []Names{n}
	if n.Owns() {
		members, _ := recordedMembers(n) // Cleanup says what is wrong
		for _, m := range members {
			all = append(all, m.names)
		}
	}
	for _, m := range all {
		if own := m.own(); own != m.Sandbox && own.Exists() {
			domains = append(domains, own.Domain())
		}
	}
	return domains
}

// Owns says whether the sandbox is the container's.
func (n Names) Owns() bool { return n.ID == n.Sandbox.ID }

// Exists says whether anything of a container, or of a sandbox that is its own, is on
// the host.
func (n Names) Exists() bool {
	_, err := os.Lstat(n.Data)
	return !errors.Is(err, os.ErrNotExist) || n.Owns() && n.Sandbox.Exists()
}

// device is a node of a block device of the host.
func (n Names) device(i int) string { return filepath.Join(n.Data, fmt.Sprintf("device-%d", i)) }

func (n Names) root() string       { return filepath.Join(n.Data, "root.erofs") }
func (n Names) bootDisk() string   { return filepath.Join(n.Data, "boot.tfs") }
func (n Names) bootLayer() string  { return filepath.Join(n.Data, "boot.qcow2") }
func (n Names) kernel() string     { return filepath.Join(n.Data, "kernel") }
func (n Names) ownKernel() string  { return filepath.Join(n.Data, "kernel.own") }
func (n Names) initrd() string     { return filepath.Join(n.Data, "initrd") }
func (n Names) imageDisk() string  { return filepath.Join(n.Data, "disk.raw") }
func (n Names) imageLayer() string { return filepath.Join(n.Data, "disk.qcow2") }
func (n Names) unmerged() string   { return filepath.Join(n.Data, "unmerged.json") }
func (n Names) writable() string   { return filepath.Join(n.Data, "writable.ext4") }
