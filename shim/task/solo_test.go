package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// newHollowBench is a bench whose container "c" is that of a pod whose guest holds one
// program; it runs.
func newHollowBench(t *testing.T) *podBench {
	t.Helper()
	b := newBench(t)
	b.spec.Hostname = "h"
	b.spec.Annotations = map[string]string{annotationType: typeSandbox, annotationSandbox: "c"}
	b.spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"}
	b.must(true)
	return &podBench{bench: b}
}

// TestHollowPod: the containers of such a pod have machines of their own in its network,
// one after the other, and never two at a time; the pod ends last.
func TestHollowPod(t *testing.T) {
	b := newHollowBench(t)
	if len(b.host.machines.Made) != 0 {
		t.Errorf("the pod has a machine: %+v", b.host.machines.Made)
	}
	keeper, err := b.Container("c")
	if err != nil {
		t.Fatal(err)
	}
	own := specs.LinuxNamespace{Type: specs.NetworkNamespace}
	if err := b.add("c1", true, own); err != nil {
		t.Fatal(err)
	}
	one, err := b.Container("c1")
	if err != nil {
		t.Fatal(err)
	}
	spec := one.app.Spec
	if spec.Hostname != "h" || spec.Linux.Sysctl["kernel.shmmax"] != "1" || one.sandbox.NetNS() != keeper.sandbox.NetNS() || one.sandbox == keeper.sandbox {
		t.Errorf("host %q, kernel parameters %v, network %s of %s", spec.Hostname, spec.Linux.Sysctl, one.sandbox.NetNS(), keeper.sandbox.NetNS())
	}
	if len(b.host.machines.Made) != 1 || b.host.machines.Made[0].Name != one.names.own().Domain() {
		t.Errorf("machines %+v", b.host.machines.Made)
	}
	if err := b.add("c2", false, own); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "has container c1 already") {
		t.Errorf("a second one: %v", err)
	}
	b.host.guest.session.init.end(3)
	b.over("c1", 3)
	if mustStatus(t, b, "c").State != Running || b.host.machines.Alive() != 0 {
		t.Errorf("after the first the pod is %s, with %d machines", mustStatus(t, b, "c").State, b.host.machines.Alive())
	}

	b.host.guest.session = newSession() // the next machine's
	if err := b.add("c2", true, own); err != nil {
		t.Fatal(err)
	}
	if err := b.Kill(t.Context(), "c", "", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	b.over("c", 137)
	b.over("c2", 137)
	b.wantOrder("c1", "c2", "c")
	b.wantNothing()
}

// TestHollowPodFails: a container that cannot be created leaves the pod free for another.
func TestHollowPodFails(t *testing.T) {
	b := newHollowBench(t)
	b.host.machines.CreateErr = unikernel.ErrUnavailable
	if err := b.add("c1", false, specs.LinuxNamespace{Type: specs.NetworkNamespace}); err == nil {
		t.Fatal("it was created")
	}
	b.host.machines.CreateErr = nil
	if err := b.add("c2", false, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}); !errors.Is(err, unikernel.ErrNotImplemented) {
		t.Errorf("the host's processes: %v", err)
	}
	if err := b.add("c3", false, specs.LinuxNamespace{Type: specs.NetworkNamespace}); err != nil {
		t.Errorf("another one: %v", err)
	}
	if _, err := b.Delete(t.Context(), "c3", ""); err != nil {
		t.Error(err)
	}
	if err := b.Kill(t.Context(), "c", "", syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	b.over("c", 0)
	b.wantNothing()
}

// TestCleanupOfAHollowPod: machines of containers are found by their names, and freed
// with them or with the pod.
func TestCleanupOfAHollowPod(t *testing.T) {
	b := newBench(t)
	storage := config.Storage{StateDir: b.dir + "/s", DataDir: b.dir + "/d"}
	keeper, member := NewNames(storage, "ns", "c", "c"), NewNames(storage, "ns", "c1", "c")
	make := func() {
		t.Helper()
		err := errors.Join(os.MkdirAll(keeper.Sandbox.State, 0o700), recordMember(member, filepath.Join(b.dir, "c1")), os.MkdirAll(member.own().State, 0o700))
		if err != nil {
			t.Fatal(err)
		}
	}
	make()
	want := []string{keeper.Sandbox.Domain(), member.own().Domain()}
	for _, n := range []Names{keeper, member} {
		if got := n.Machines(); len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("machines of %s: %v, want %v", n.ID, got, want)
		}
	}
	if err := Cleanup(t.Context(), member, "", filepath.Join(b.dir, "c1"), b.host.networks, b.host.disks); err != nil || member.own().Exists() || !keeper.Sandbox.Exists() {
		t.Errorf("with the container: %v", err)
	}
	make()
	if err := Cleanup(t.Context(), keeper, "", b.bundle, b.host.networks, b.host.disks); err != nil {
		t.Error(err)
	}
	b.wantNothing()
}
