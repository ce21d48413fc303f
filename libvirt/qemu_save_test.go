package libvirt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	lv "libvirt.org/go/libvirt"
)

// A machine's state can be saved and goes on from there. QEMU saves no machine
// whose processor has what it could not take along: under KVM on a host with an
// invariant TSC that depends on the document.
func TestQEMUSaveAndRestore(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		for _, kind := range []string{machineMicroVM, machineQ35} {
			t.Run(kind, func(t *testing.T) { saveAndRestore(t, d, newGuest(t, "uni-test--save-"+kind, kind, "count")) })
		}
	})
}

func saveAndRestore(t *testing.T, d *Driver, g *guest) {
	t.Helper()
	state := filepath.Join(g.dir, "state")
	_, console := run(t, d, g)
	console.await(t, "count 3\r")
	if err := d.each(t.Context(), g.machine.Name, "save", func(dom *lv.Domain) error { return dom.Save(state) }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(state); err != nil || info.Size() == 0 {
		t.Fatalf("the state's file: %v, %v", info, err)
	}
	if _, err := d.Wait(t.Context(), g.machine.Name); err != nil { // it is saved, so it does not run
		t.Fatal(err)
	}
	destroyed(t, d, g) // what is restored is a stranger's machine to the driver
	before := console.String()
	restore := func(c *lv.Connect) error {
		return c.DomainRestoreFlags(state, "", lv.DOMAIN_SAVE_PAUSED)
	}
	if err := d.do(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.destroyStranger(context.Background(), g.machine.Name); err != nil {
			t.Error(err)
		}
	})
	again := readConsole(t, g.machine.Console)
	if err := d.Resume(t.Context(), g.machine.Name); err != nil {
		t.Fatal(err)
	}
	last := strings.Count(before, "count")
	again.await(t, "count "+itoa(last+3)+"\r")
	if strings.Contains(again.String(), "init count") {
		t.Error("the guest booted again")
	}
}
