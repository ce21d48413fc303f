package task

import (
	"path/filepath"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

// Names are the places of one container on the host. All follow from its
// namespace, its id and the configuration, so nothing has to be remembered to
// find them.
type Names struct {
	Namespace, ID string
	// Key is short enough for paths of sockets, see unikernel.Key.
	Key string
	// State is the directory of what is gone after a reboot.
	State string
	// Data is the directory of the container's disks.
	Data string
}

// NewNames returns the names of a container.
func NewNames(storage config.Storage, namespace, id string) Names {
	key := unikernel.Key(namespace, id)
	return Names{
		Namespace: namespace, ID: id, Key: key,
		State: filepath.Join(storage.StateDir, key),
		Data:  filepath.Join(storage.DataDir, "containers", key),
	}
}

// Domain is the name of the container's machine.
func (n Names) Domain() string { return unikernel.DomainName(n.Namespace, n.ID) }

func (n Names) control() string      { return filepath.Join(n.State, "ctl.sock") }
func (n Names) console() string      { return filepath.Join(n.State, "console.sock") }
func (n Names) share() string        { return filepath.Join(n.State, "share") }
func (n Names) cgroupRecord() string { return filepath.Join(n.State, "cgroup") }
func (n Names) netns() string        { return filepath.Join(n.State, "netns") }
func (n Names) root() string         { return filepath.Join(n.Data, "root.erofs") }
func (n Names) bootDisk() string     { return filepath.Join(n.Data, "boot.tfs") }
func (n Names) bootLayer() string    { return filepath.Join(n.Data, "boot.qcow2") }
func (n Names) kernel() string       { return filepath.Join(n.Data, "kernel") }
func (n Names) initrd() string       { return filepath.Join(n.Data, "initrd") }
func (n Names) imageDisk() string    { return filepath.Join(n.Data, "disk.raw") }
func (n Names) imageLayer() string   { return filepath.Join(n.Data, "disk.qcow2") }
func (n Names) writable() string     { return filepath.Join(n.Data, "writable.ext4") }
