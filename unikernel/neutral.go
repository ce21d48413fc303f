package unikernel

import (
	"fmt"
	"path/filepath"
	"slices"
)

// Neutral returns a machine of the same shape with nothing of what is one machine's
// own. Its files are to be in a directory, each with a name that follows from its
// place in the machine; so have its taps.
func (m Machine) Neutral(dir string) Machine {
	m.Name, m.Title, m.Saved, m.NetNS = "template", "", "", ""
	m.Disks, m.NICs, m.Channels = slices.Clone(m.Disks), slices.Clone(m.NICs), slices.Clone(m.Channels)
	for i, d := range m.Disks {
		name := fmt.Sprintf("disk%d", i)
		m.Disks[i] = Disk{Path: filepath.Join(dir, name), Format: "raw", Serial: name, ReadOnly: d.ReadOnly}
	}
	for i, n := range m.NICs {
		m.NICs[i] = NIC{Tap: fmt.Sprintf("tap%d", i), MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), Queues: n.Queues}
	}
	for i, c := range m.Channels {
		m.Channels[i] = Channel{Name: c.Name, Socket: filepath.Join(dir, fmt.Sprintf("port%d.sock", i))}
	}
	if m.Console != "" {
		m.Console = filepath.Join(dir, "console.sock")
	}
	return m
}
