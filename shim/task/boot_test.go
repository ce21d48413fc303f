package task

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"syscall"
	"testing"

	"containerd-shim-uni/unikernel"
)

// fakeWatcher is a guest without a control channel: its process exits with the
// machine, with the status that the record holds.
type fakeWatcher struct {
	fakeGuest
	watched unikernel.Booted
}

func (g *fakeWatcher) Plan(_ unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	return unikernel.Plan{
		Boot: unikernel.Boot{Machine: "q35", Kernel: "/k", Resources: r},
		Disks: []unikernel.DiskRequest{{
			Kind: unikernel.DiskBoot, Serial: unikernel.SerialRoot, Boot: unikernel.BootDisk{Boot: "/b", Kernel: "/k"},
		}},
		OneProcess: true,
	}, g.planErr
}

func (g *fakeWatcher) Prepare(app unikernel.App) (unikernel.Prepared, error) {
	return unikernel.Prepared{Boot: &unikernel.BootConfig{
		Args: app.Spec.Process.Args, Options: make([]unikernel.Option, len(app.Network.Interfaces)),
	}}, nil
}

func (g *fakeWatcher) Connect(_ context.Context, m unikernel.Booted) (unikernel.Session, error) {
	g.watched = m
	g.session.conn = m.Console()
	go func() { _, _ = io.Copy(io.Discard, m.Console()) }()
	go func() {
		_, _ = m.Ended(context.Background())
		record, err := m.Record()
		if err == nil && len(record) > 0 {
			g.session.init.end(uint32(record[0]))
		}
	}()
	return g.session, nil
}

func newWatcherBench(t *testing.T) (*bench, *fakeWatcher) {
	b := newBench(t)
	b.configure(`guest = "nanos"`)
	w := &fakeWatcher{fakeGuest: fakeGuest{session: b.session}}
	b.host.watcher = w
	return b, w
}

func TestBootFromRoot(t *testing.T) {
	b, w := newWatcherBench(t)
	b.host.disks.record = []byte{42}
	c := b.must(true)
	m := b.host.machines.Made[0]
	if len(m.Channels) > 0 || len(m.Disks) != 1 || m.Disks[0].Format != "qcow2" || m.Disks[0].ReadOnly || m.Disks[0].Path != c.names.bootLayer() {
		t.Errorf("machine %+v", m)
	}
	if err := w.watched.PowerButton(t.Context()); err != nil || len(b.host.machines.Pressed) != 1 {
		t.Errorf("power button: %v, pressed %v", err, b.host.machines.Pressed)
	}
	b.host.disks.advice = "it starts processes"
	b.host.machines.End(c.names.Sandbox.Domain(), unikernel.EndShutdown)
	if got := b.wait(); got != 42 {
		t.Errorf("exit %+v", got)
	}
	b.remove()
	b.wantNothing()
}

// TestBootVolumes: a machine has its volumes' disks, the new ones where it is
// made again, and nothing is left of them.
func TestBootVolumes(t *testing.T) {
	b, _ := newWatcherBench(t)
	b.host.disks.record, b.host.disks.volumes = []byte{1}, 2
	c := b.must(false)
	b.host.networks.found = podNetwork
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	made := b.host.machines.Made
	if len(made) != 2 {
		t.Fatalf("%d machines were made", len(made))
	}
	for _, m := range made {
		var serials []string
		for _, d := range m.Disks {
			serials = append(serials, d.Serial)
		}
		if !slices.Equal(serials, []string{"volume-0", "volume-1", unikernel.SerialRoot}) {
			t.Errorf("disks %v", serials)
		}
	}
	b.host.machines.End(c.names.Sandbox.Domain(), unikernel.EndShutdown)
	b.wait()
	b.remove()
	b.wantNothing()
}

// TestBootThatEndsAtOnce: a program that has ended before its machine is known to
// run was started all the same.
func TestBootThatEndsAtOnce(t *testing.T) {
	b, _ := newWatcherBench(t)
	b.host.disks.record = []byte{42}
	b.host.machines.OnResume = func(name string) { b.host.machines.End(name, unikernel.EndShutdown) }
	b.must(true)
	if got := b.wait(); got != 42 {
		t.Errorf("exit %d", got)
	}
	b.remove()
	b.wantNothing()
	b.wantEvents("create", "start", "exit", "delete")
}

// TestBootThatFailsAtOnce: a machine that its guest did not end never ran it.
func TestBootThatFailsAtOnce(t *testing.T) {
	b, _ := newWatcherBench(t)
	b.host.machines.OnResume = func(name string) { b.host.machines.End(name, unikernel.EndFailed) }
	b.must(false)
	if _, err := b.Start(t.Context(), "c", ""); err == nil {
		t.Error("the start of a machine that failed succeeded")
	}
	// 137 or 255: whether the end or the failed start is noticed first is open.
	if got := b.wait(); got == 0 {
		t.Error("exit 0")
	}
	b.remove()
	b.wantNothing()
}

func TestBootFromRootKilled(t *testing.T) {
	b, _ := newWatcherBench(t)
	c := b.must(true)
	if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if got := b.wait(); got != 137 {
		t.Errorf("exit %+v", got)
	}
	b.remove()
	b.wantNothing()
}

// TestBootFromRootLateNetwork: the layer is made again when the network appears.
func TestBootFromRootLateNetwork(t *testing.T) {
	b, _ := newWatcherBench(t)
	b.host.disks.record = []byte{1}
	c := b.must(false)
	b.host.networks.found = podNetwork
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	if made := b.host.disks.configured; len(made) != 2 || len(made[1].Options) != 1 {
		t.Errorf("configured %+v", made)
	}
	b.host.machines.End(c.names.Sandbox.Domain(), unikernel.EndShutdown)
	b.wait()
	b.remove()
	b.wantNothing()
}

func TestBootFromRootFails(t *testing.T) {
	for name, fail := range map[string]func(*bench){
		"disk":          func(b *bench) { b.host.disks.bootErr = os.ErrPermission },
		"configuration": func(b *bench) { b.host.disks.configureErr = os.ErrPermission },
	} {
		b, _ := newWatcherBench(t)
		fail(b)
		if _, err := b.create(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
		b.wantNothing()
	}
}
