package task

import (
	"errors"
	"syscall"
	"testing"

	"containerd-shim-uni/shim/status"
)

// seen asks for the only sandbox of a host.
func (b *bench) seen() status.Machine {
	b.t.Helper()
	found, err := status.List(b.t.Context(), b.dir+"/s")
	if err != nil || len(found) != 1 || found[0].Err != nil {
		b.t.Fatalf("%+v, %v", found, err)
	}
	return found[0].Machine
}

// TestSeen: a container is seen from its creation until it is deleted, and what became
// of it in between.
func TestSeen(t *testing.T) {
	b := newBench(t)
	if _, err := b.create(); err != nil {
		t.Fatal(err)
	}
	m := b.seen()
	if m.Namespace != "ns" || m.ID != "c" || m.Kind != status.KindContainer || m.State != "created" || m.Guest == "" || m.MemoryMiB == 0 || m.Pid == 0 {
		t.Errorf("%+v", m)
	}
	if len(m.Containers) != 1 || m.Containers[0].State != "created" || !m.Containers[0].Started.IsZero() {
		t.Errorf("%+v", m.Containers)
	}
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	m = b.seen()
	if c := m.Containers[0]; m.State != "up" || c.State != "running" || c.Started.Before(c.Created) || c.Exit != nil {
		t.Errorf("%+v, %+v", m, c)
	}
	if _, ok := m.Stages["boot"]; !ok {
		t.Errorf("stages %v", m.Stages)
	}
	b.session.init.end(7)
	b.wait()
	m = b.seen()
	if c := m.Containers[0]; c.State != "stopped" || c.Exit == nil || c.Exit.Status != 7 || c.Used != nil {
		t.Errorf("%+v", c)
	}
	if _, err := b.Delete(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	if found, err := status.List(t.Context(), b.dir+"/s"); err != nil || len(found) != 0 {
		t.Errorf("after it was deleted: %+v, %v", found, err)
	}
}

// TestPodSeen: a pod is one machine, with its containers and not its own.
func TestPodSeen(t *testing.T) {
	b := newPodBench(t)
	if err := errors.Join(b.add("c1", true), b.add("c2", false)); err != nil {
		t.Fatal(err)
	}
	m := b.seen()
	if m.Kind != status.KindPod || m.ID != "c" || len(m.Containers) != 2 || m.Containers[0].ID != "c1" || m.Containers[1].State != "created" {
		t.Errorf("%+v", m)
	}
	if err := b.Kill(t.Context(), "c", "", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c", "c1", "c2"} {
		b.over(id, 137)
	}
	b.wantNothing()
}
