package machinetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
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
}

// patience bounds what must happen soon.
const patience = 30 * time.Second

// Run tests machines that are made of m, which runs until it is ended and has a
// control channel, after and before one another.
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
