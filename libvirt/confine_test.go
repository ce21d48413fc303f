package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// view are the files below a process's root, but for directories.
func view(t *testing.T, pid int) string {
	t.Helper()
	root := fmt.Sprintf("/proc/%d/root/", pid)
	var found []string
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, "/"+strings.TrimPrefix(path, root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

// TestQEMUView: a QEMU has its machine's disks, those that come and go too, and
// nothing else.
func TestQEMUView(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--view", "microvm", "hang")
		g.disk(t, "root", "root", true)
		g.disk(t, "writable", "", false)
		g.disk(t, "later", "", false)
		later := g.machine.Disks[2]
		g.machine.Disks, g.machine.LUNs = g.machine.Disks[:2], true
		pids, _ := create(t, d, g)
		own := g.machine.Disks[0].Path + " " + g.machine.Disks[1].Path
		if got := view(t, pids.VM); got != own {
			t.Errorf("QEMU has %q, want %q", got, own)
		}
		if err := d.Attach(t.Context(), g.machine.Name, later, 3); err != nil {
			t.Fatal(err)
		}
		if got := view(t, pids.VM); got != later.Path+" "+own {
			t.Errorf("with one more QEMU has %q", got)
		}
		if err := d.Detach(t.Context(), g.machine.Name, later, 3); err != nil {
			t.Fatal(err)
		}
		if got := view(t, pids.VM); got != own {
			t.Errorf("then QEMU has %q", got)
		}
		missing := later
		missing.Path += "-missing"
		if err := d.Attach(t.Context(), g.machine.Name, missing, 3); !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("a missing disk: %v", err)
		}
	})
}
