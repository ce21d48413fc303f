package machinetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// Machines is what is tested; package shim/sandbox has the same, with what each
// method promises.
type Machines interface {
	Create(context.Context, unikernel.Machine) (unikernel.Pids, error)
	Resume(ctx context.Context, name string) error
	Pause(ctx context.Context, name string) error
	Destroy(ctx context.Context, name string) error
	Wait(ctx context.Context, name string) (unikernel.End, error)
	PowerButton(ctx context.Context, name string) error
	Attach(ctx context.Context, name string, d unikernel.Disk, unit int) error
	Detach(ctx context.Context, name string, d unikernel.Disk, unit int) error
}

// patience bounds what must happen soon.
const patience = 30 * time.Second

// Run tests machines that are made of m, which runs until it is ended, has a
// control channel and takes disks while it runs, after and before one another.
func Run(t *testing.T, machines Machines, m unikernel.Machine) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	defer cancel()
	defer machines.Destroy(context.WithoutCancel(ctx), m.Name)
	for _, test := range []struct {
		name string
		run  func(*testing.T, context.Context, Machines, unikernel.Machine)
	}{
		{"absent", absent},
		{"names", names},
		{"life", life},
		{"disks", disks},
		{"contexts", contexts},
		{"again at once", again},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, ctx, machines, m) })
	}
}

func create(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	t.Helper()
	pids, err := machines.Create(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	if pids.VM <= 1 {
		t.Errorf("process %d", pids.VM)
	}
}

func destroy(t *testing.T, ctx context.Context, machines Machines, name string) {
	t.Helper()
	if err := machines.Destroy(ctx, name); err != nil {
		t.Errorf("destroy: %v", err)
	}
}

// absent: what is not there is not found, and need not be destroyed.
func absent(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	destroy(t, ctx, machines, m.Name)
	_, waitErr := machines.Wait(ctx, m.Name)
	for what, err := range map[string]error{
		"resume": machines.Resume(ctx, m.Name), "pause": machines.Pause(ctx, m.Name),
		"power button": machines.PowerButton(ctx, m.Name), "wait": waitErr,
		"attach": machines.Attach(ctx, m.Name, disk(t, m, "a"), 0), "detach": machines.Detach(ctx, m.Name, disk(t, m, "a"), 0),
	} {
		if !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("%s of a machine that is not there: %v", what, err)
		}
	}
}

// names: one machine has a name.
func names(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	create(t, ctx, machines, m)
	if _, err := machines.Create(ctx, m); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second machine of the name: %v", err)
	}
	destroy(t, ctx, machines, m.Name)
}

// life: a machine's sockets are there from its creation to its end, which is told
// to who waits then and later.
func life(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	create(t, ctx, machines, m)
	socket := m.Channels[0].Socket
	if _, err := os.Stat(socket); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := machines.Resume(ctx, m.Name); err != nil {
			t.Errorf("resume: %v", err)
		}
		if err := machines.Pause(ctx, m.Name); err != nil {
			t.Errorf("pause: %v", err)
		}
	}
	ends := make(chan unikernel.End, 1)
	go func() {
		end, err := machines.Wait(ctx, m.Name)
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		ends <- end
	}()
	destroy(t, ctx, machines, m.Name)
	if end := <-ends; end.Reason != unikernel.EndDestroyed || end.At.IsZero() {
		t.Errorf("end %+v", end)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	destroy(t, ctx, machines, m.Name) // a second time there is nothing to do
	for what, err := range map[string]error{"resume": machines.Resume(ctx, m.Name), "pause": machines.Pause(ctx, m.Name)} {
		if !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	if end, err := machines.Wait(ctx, m.Name); err == nil && end.Reason != unikernel.EndDestroyed {
		t.Errorf("wait after the end: %+v", end)
	}
}

// contexts: no call outlasts its own. A creation that nobody waits for leaves
// nothing.
func contexts(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := machines.Create(over, m); err == nil {
		t.Error("created for nobody")
	}
	if err := machines.Resume(ctx, m.Name); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("a creation for nobody left a machine: %v", err)
	}
	create(t, ctx, machines, m)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := machines.Wait(short, m.Name); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	for what, err := range map[string]error{
		"resume": machines.Resume(over, m.Name), "pause": machines.Pause(over, m.Name), "power button": machines.PowerButton(over, m.Name),
		"attach": machines.Attach(over, m.Name, disk(t, m, "a"), 0), "detach": machines.Detach(over, m.Name, disk(t, m, "a"), 0),
	} {
		if err == nil {
			t.Errorf("%s: done although its context had ended", what)
		}
	}
	if d := time.Since(began); d > patience {
		t.Errorf("calls whose contexts had ended took %v", d)
	}
	destroy(t, ctx, machines, m.Name)
}

// again: a name can be used again the moment Destroy returns.
func again(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	for range 3 {
		create(t, ctx, machines, m)
		destroy(t, ctx, machines, m.Name)
	}
}

// disk makes a disk's file beside the machine's socket, unless it is there.
func disk(t *testing.T, m unikernel.Machine, serial string) unikernel.Disk {
	t.Helper()
	path := filepath.Join(filepath.Dir(m.Channels[0].Socket), serial+".disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return unikernel.Disk{Path: path, Format: "raw", Serial: serial}
}

// disks: they come to a machine that is paused or runs and go again, each at a unit
// that is its own meanwhile.
func disks(t *testing.T, ctx context.Context, machines Machines, m unikernel.Machine) {
	create(t, ctx, machines, m)
	a, b := disk(t, m, "a"), disk(t, m, "b")
	missing := unikernel.Disk{Path: a.Path + ".missing", Format: "raw", Serial: "missing"}
	last := unikernel.MaxLUNs - 1
	attach := func(d unikernel.Disk, unit int, want error) {
		t.Helper()
		if err := machines.Attach(ctx, m.Name, d, unit); !errors.Is(err, want) {
			t.Errorf("attach %s at %d: %v, want %v", d.Serial, unit, err, want)
		}
	}
	detach := func(d unikernel.Disk, unit int) {
		t.Helper()
		if err := machines.Detach(ctx, m.Name, d, unit); err != nil {
			t.Errorf("detach %s from %d: %v", d.Serial, unit, err)
		}
	}
	attach(a, 0, nil) // the machine is paused
	if err := machines.Resume(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
	attach(b, last, nil)
	attach(b, last+1, unikernel.ErrInvalid)
	attach(unikernel.Disk{Path: a.Path, Format: "raw"}, 1, unikernel.ErrInvalid)
	attach(missing, 1, unikernel.ErrNotFound)
	if err := machines.Attach(ctx, m.Name, disk(t, m, "c"), 0); err == nil {
		t.Error("two disks at a unit")
	}
	detach(a, 0)
	detach(a, 0) // it is not there
	attach(a, 1, nil)
	attach(disk(t, m, "c"), 0, nil)
	if err := machines.Pause(ctx, m.Name); err != nil {
		t.Fatal(err)
	}
	detach(a, 1)
	destroy(t, ctx, machines, m.Name) // two are there
	if err := machines.Detach(ctx, m.Name, b, last); !errors.Is(err, unikernel.ErrNotFound) {
		t.Errorf("detach after the end: %v", err)
	}
}
