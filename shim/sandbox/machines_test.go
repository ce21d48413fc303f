package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"containerd-shim-uni/shim/sandbox/sandboxtest"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/machinetest"
)

// TestFakeMachines: the fake does what package libvirt's driver does; the same
// tests run there.
func TestFakeMachines(t *testing.T) {
	dir, err := os.MkdirTemp("", "m") // the path of a Unix socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var machines Machines = &sandboxtest.Machines{}
	machinetest.Run(t, machines, unikernel.Machine{
		Name: "m", LUNs: true, Console: filepath.Join(dir, "console"),
		Channels: []unikernel.Channel{{Name: "ctl", Socket: filepath.Join(dir, "ctl")}},
	})
}
