package libvirt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// Machines go on from the state of another, several at a time, each with files and a
// name of its own. A state that cannot be used gives no machine, and leaves nothing.
func TestQEMUSaved(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		for _, kind := range kinds {
			t.Run(kind, func(t *testing.T) { saved(t, d, kind) })
		}
	})
}

func saved(t *testing.T, d *Driver, kind string) {
	g := newGuest(t, "uni-test--saved-"+kind, kind, "count")
	g.disk(t, "root", "root", true)
	g.disk(t, "writable", "", false)
	_, console := run(t, d, g)
	console.await(t, "count 3\r")
	state := filepath.Join(g.dir, "state")
	f, err := os.OpenFile(state, os.O_CREATE|os.O_RDWR, 0o600) // nobody's but root's
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.Save(t.Context(), g.machine.Name, f); err != nil {
		t.Fatal(err)
	}
	before := console.String()
	destroyed(t, d, g)
	clone := func(i int, state string) *guest {
		c := newGuest(t, fmt.Sprintf("uni-test--saved-%s-%d", kind, i), kind, "count")
		c.machine.Initrd = g.machine.Initrd
		c.disk(t, "root", "root", true)
		c.disk(t, "writable", "", false)
		c.machine.Saved = state
		return c
	}
	var consoles []*transcript
	var clones []*guest
	for i := range 2 {
		c := clone(i, state)
		_, console := run(t, d, c)
		clones, consoles = append(clones, c), append(consoles, console)
	}
	last := strings.Count(before, "count")
	for i, console := range consoles {
		console.await(t, "count "+itoa(last+3)+"\r")
		if strings.Contains(console.String(), "init count") {
			t.Errorf("clone %d booted", i)
		}
		destroyed(t, d, clones[i])
	}
	if kind != machineMicroVM {
		return
	}
	cut := filepath.Join(g.dir, "cut")
	data, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range []int{0, 100, len(data) / 2, len(data) / 10 * 9} {
		if err := os.WriteFile(cut, data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		c := clone(10+i, cut)
		if _, err := d.Create(t.Context(), c.machine); err == nil {
			t.Errorf("a machine of %d of %d bytes of a state", size, len(data))
		}
		destroyed(t, d, c)
	}
	c := clone(20, filepath.Join(g.dir, "missing"))
	if _, err := d.Create(t.Context(), c.machine); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state that is not there: %v", err)
	}
	destroyed(t, d, c)
	c = clone(21, state)
	c.machine.Resources = unikernel.Resources{MemoryMiB: 128, VCPUs: 1}
	if _, err := d.Create(t.Context(), c.machine); err == nil {
		t.Error("a machine of another size")
	}
	destroyed(t, d, c)
}
