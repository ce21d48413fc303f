package sandbox

import (
	"path/filepath"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/status"
	"containerd-shim-uni/unikernel"
)

// Names are the places of one sandbox on the host. All follow from its
// namespace, its id and the configuration, so nothing has to be remembered to
// find them.
type Names struct {
	Namespace, ID string
	// Key is short enough for paths of sockets, see unikernel.Key.
	Key string
	// State is the directory of what is gone after a reboot. It is made first and
	// removed last: without it nothing is left.
	State string
}

// NewNames returns the names of a sandbox. A lone container's has its id.
func NewNames(storage config.Storage, namespace, id string) Names {
	key := unikernel.Key(namespace, id)
	return Names{Namespace: namespace, ID: id, Key: key, State: filepath.Join(storage.StateDir, key)}
}

// Domain is the name of the machine.
func (n Names) Domain() string { return unikernel.DomainName(n.Namespace, n.ID) }

// Share is the directory that the machine shares with its guest.
func (n Names) Share() string { return filepath.Join(n.State, "share") }

// Control is the socket of the control channel.
func (n Names) Control() string { return filepath.Join(n.State, "ctl.sock") }

// Console is the socket of the console.
func (n Names) Console() string { return filepath.Join(n.State, "console.sock") }

// Status is the socket on which its shim tells of it.
func (n Names) Status() string { return filepath.Join(n.State, status.Socket) }

func (n Names) cgroupRecord() string { return filepath.Join(n.State, "cgroup") }
func (n Names) netns() string        { return filepath.Join(n.State, "netns") }

// joined is the file that holds the path of a network namespace that is not its own.
func (n Names) joined() string { return filepath.Join(n.State, "joined") }

// Sibling returns the names of the sandbox of another id.
func (n Names) Sibling(id string) Names {
	key := unikernel.Key(n.Namespace, id)
	return Names{Namespace: n.Namespace, ID: id, Key: key, State: filepath.Join(filepath.Dir(n.State), key)}
}
