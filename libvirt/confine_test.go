package libvirt

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/libvirt/confine/confinetest"
	"containerd-shim-uni/unikernel"
)

func TestStrictWantsUsers(t *testing.T) {
	_, err := Open(t.Context(), Options{EmbedRoot: "/run/x", Accel: AccelTCG, User: "root", Strict: true})
	if !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("a strict driver that runs every QEMU as root: %v", err)
	}
}

// TestQEMUNoView: where the host's files cannot be taken from a QEMU, the log says so
// once; with a strict driver there is no machine, and nothing is left of it.
func TestQEMUNoView(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--no-view", "microvm", "hang")
		g.disk(t, "writable", "", false)
		said := make(chan string, 100)
		d.log = func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }
		d.enclose = func(int, []confine.File) error { return confine.ErrShared }
		for range 2 {
			create(t, d, g)
			destroyed(t, d, g)
		}
		if text := <-said; len(said) > 0 || !strings.Contains(text, "open to everybody") {
			t.Errorf("the log says %q, and %d more", text, len(said))
		}
		d.strict = true
		if _, err := d.Create(t.Context(), g.machine); !errors.Is(err, confine.ErrShared) {
			t.Errorf("create: %v", err)
		}
		destroyed(t, d, g)
		if fileOwner(t, g.machine.Disks[0].Path) != 0 {
			t.Error("the disk is not root's again")
		}
	})
}

// TestQEMUView: a QEMU has the disks that its machine writes, those that come and go
// too, and nothing else. What it reads it has open, and no name or right for any more.
func TestQEMUView(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--view", "microvm", "hang")
		g.disk(t, "root", "root", true)
		g.disk(t, "writable", "", false)
		g.disk(t, "later", "", false)
		later := g.machine.Disks[2]
		g.machine.Disks, g.machine.LUNs = g.machine.Disks[:2], true
		pids, _ := create(t, d, g)
		image, own := g.machine.Disks[0].Path, g.machine.Disks[1].Path
		closed := func() {
			t.Helper()
			if uid := owner(t, pids.VM); d.account.lists && (readableAs(t, uid, uid, image) || perms(t, image)&0o040 != 0) {
				t.Errorf("QEMU's user may read %s", image)
			}
		}
		closed()
		if got := confinetest.View(t, pids.VM); got != own {
			t.Errorf("QEMU has %q, want %q", got, own)
		}
		if err := d.Attach(t.Context(), g.machine.Name, later, 3); err != nil {
			t.Fatal(err)
		}
		if got := confinetest.View(t, pids.VM); got != later.Path+" "+own {
			t.Errorf("with one more QEMU has %q", got)
		}
		read := g.lun(t, "lun--read", true)
		if err := d.Attach(t.Context(), g.machine.Name, read, 4); err != nil {
			t.Fatal(err)
		}
		if got := confinetest.View(t, pids.VM); got != later.Path+" "+own {
			t.Errorf("with one more that it reads QEMU has %q", got)
		}
		image = read.Path
		closed()
		if err := d.Detach(t.Context(), g.machine.Name, later, 3); err != nil {
			t.Fatal(err)
		}
		if got := confinetest.View(t, pids.VM); got != own {
			t.Errorf("then QEMU has %q", got)
		}
		missing := later
		missing.Path += "-missing"
		if err := d.Attach(t.Context(), g.machine.Name, missing, 3); !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("a missing disk: %v", err)
		}
	})
}
