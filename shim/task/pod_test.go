package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// podGuest is a guest of pods, podSession its session. Containers in it are sessions
// of their own.
type podGuest struct {
	*fakeGuest
	session *podSession
}

func (g *podGuest) Capacity() int { return 9 }

func (g *podGuest) Pod(_ unikernel.App, r unikernel.Resources) (unikernel.Boot, error) {
	return unikernel.Boot{Machine: "microvm", Kernel: "/k", Resources: r, Control: "ctl"}, nil
}

func (g *podGuest) Connect(ctx context.Context, m unikernel.Booted) (unikernel.Session, error) {
	if _, err := g.fakeGuest.Connect(ctx, m); err != nil {
		return nil, err
	}
	return g.session, nil
}

type podSession struct {
	*fakeSession
	mu         sync.Mutex
	hostname   string
	containers map[string]*podContainer
	err        error // of Container
}

func (s *podSession) Configure(_ context.Context, app unikernel.App, _ string) error {
	s.hostname = app.Spec.Hostname
	return nil
}

func (s *podSession) Container(_ context.Context, app unikernel.App, disks []unikernel.DiskRequest) (unikernel.ContainerSession, error) {
	if s.err != nil {
		return nil, s.err
	}
	c := &podContainer{fakeSession: newSession(), app: app, disks: disks}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[app.ID] = c
	return c, nil
}

type podContainer struct {
	*fakeSession
	app       unikernel.App
	disks     []unikernel.DiskRequest
	removed   int
	removeErr error
	frozen    bool
	freezeErr error
}

func (c *podContainer) Run(ctx context.Context, io unikernel.Stdio) (unikernel.Process, error) {
	return c.fakeSession.Run(ctx, c.app, io)
}

// Remove ends what runs, unless it fails; like a guest it says of an exit late.
func (c *podContainer) Remove(context.Context) error {
	c.fakeSession.mu.Lock()
	defer c.fakeSession.mu.Unlock()
	c.removed++
	if c.removeErr != nil {
		return c.removeErr
	}
	go c.init.end(137)
	return nil
}

// Freeze is refused once, if it is to be.
func (c *podContainer) Freeze(_ context.Context, frozen bool) error {
	c.fakeSession.mu.Lock()
	defer c.fakeSession.mu.Unlock()
	if c.freezeErr != nil {
		return c.freezeErr
	}
	c.frozen = frozen
	return nil
}

func (c *podContainer) Space(context.Context, int64, int64) error { return nil }

// podBench is a bench whose sandbox "c" is that of a pod, which runs.
type podBench struct {
	*bench
	session *podSession
}

func newPodBench(t *testing.T) *podBench {
	t.Helper()
	b := newBench(t)
	s := &podSession{fakeSession: b.session, containers: map[string]*podContainer{}}
	b.host.watcher = &podGuest{b.host.guest, s}
	b.spec.Hostname = "h"
	b.spec.Annotations = map[string]string{annotationType: typeSandbox, annotationSandbox: "c"}
	b.must(true)
	return &podBench{b, s}
}

// add creates a container of the pod, and starts it if asked.
func (b *podBench) add(id string, start bool, namespaces ...specs.LinuxNamespace) error {
	b.t.Helper()
	bundle := filepath.Join(b.dir, id)
	spec := b.spec
	spec.Hostname = ""
	spec.Annotations = map[string]string{annotationType: typeContainer, annotationSandbox: "c"}
	spec.Linux = &specs.Linux{Namespaces: namespaces}
	data, err := json.Marshal(spec)
	if err != nil {
		b.t.Fatal(err)
	}
	record, err := os.ReadFile(filepath.Join(b.bundle, configRecord))
	if err = errors.Join(err, os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o700)); err != nil {
		b.t.Fatal(err)
	}
	for name, text := range map[string][]byte{"config.json": data, configRecord: record} {
		if err := os.WriteFile(filepath.Join(bundle, name), text, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	if _, err := b.Create(b.t.Context(), CreateRequest{ID: id, Bundle: bundle}); err != nil {
		return err
	}
	if start {
		_, err = b.Start(b.t.Context(), id, "")
	}
	return err
}

// over waits for the exit of a container and deletes it.
func (b *podBench) over(id string, status uint32) {
	b.t.Helper()
	exit, err := b.Wait(b.t.Context(), id, "")
	if err != nil || exit.Status != status {
		b.t.Errorf("%s: status %d, %v; want %d", id, exit.Status, err, status)
	}
	if _, err := b.Delete(b.t.Context(), id, ""); err != nil {
		b.t.Errorf("delete %s: %v", id, err)
	}
}

// TestPod: containers come and go in the pod's machine, which outlasts them; the pod's
// own ends last.
func TestPod(t *testing.T) {
	b := newPodBench(t)
	if b.session.hostname != "h" || len(b.host.machines.Made) != 1 || len(b.host.machines.Made[0].Disks) > 0 || !b.host.machines.Made[0].LUNs {
		t.Errorf("machine %+v of host %q", b.host.machines.Made, b.session.hostname)
	}
	keeper, err := b.Container("c")
	if err != nil {
		t.Fatal(err)
	}
	shared := specs.LinuxNamespace{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", keeper.Status().Pid)}
	for _, id := range []string{"c1", "c2"} {
		if err := b.add(id, true, shared); err != nil {
			t.Fatal(err)
		}
	}
	one, two := b.session.containers["c1"], b.session.containers["c2"]
	if one.app.Spec.Linux.Namespaces[0].Path != "" || one.disks[0].Serial == two.disks[0].Serial || one.disks[0].Serial == one.disks[1].Serial {
		t.Errorf("namespaces %+v, disks %+v and %+v", one.app.Spec.Linux.Namespaces, one.disks, two.disks)
	}
	if a, c := mustStatus(t, b, "c1").Pid, mustStatus(t, b, "c2").Pid; a == c || a == keeper.Status().Pid {
		t.Errorf("processes %d, %d, %d", a, c, keeper.Status().Pid)
	}
	if err := b.Kill(t.Context(), "c1", "", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	b.over("c1", 137)
	if one.removed != 1 || b.host.machines.Alive() != 1 || mustStatus(t, b, "c2").State != Running {
		t.Errorf("the first was removed %d times, %d machines, the second is %s", one.removed, b.host.machines.Alive(), mustStatus(t, b, "c2").State)
	}
	if err := b.Kill(t.Context(), "c", "", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	b.over("c", 137)
	b.over("c2", 137)
	b.wantOrder("c1", "c2", "c")
	b.wantNothing()
	if err := b.add("c3", false); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a container of a pod that is gone: %v", err)
	}
}

// TestPodPause: a container of a pod is paused in the guest, alone; one whose processes
// do not stand still goes on, and SIGKILL ends one that is paused.
func TestPodPause(t *testing.T) {
	b := newPodBench(t)
	for _, id := range []string{"c1", "c2"} {
		if err := b.add(id, true); err != nil {
			t.Fatal(err)
		}
	}
	c, err := b.Container("c1")
	if err != nil {
		t.Fatal(err)
	}
	in := b.session.containers["c1"]
	in.freezeErr = unikernel.ErrUnavailable
	if err := c.Pause(t.Context()); err == nil || mustStatus(t, b, "c1").State != Running {
		t.Errorf("it is %s, %v", mustStatus(t, b, "c1").State, err)
	}
	in.freezeErr = nil
	if err := c.Pause(t.Context()); err != nil || !in.frozen || mustStatus(t, b, "c1").State != Paused || mustStatus(t, b, "c2").State != Running {
		t.Errorf("paused: %v, %v, %s, the other %s", err, in.frozen, mustStatus(t, b, "c1").State, mustStatus(t, b, "c2").State)
	}
	if err := c.Resume(t.Context()); err != nil || in.frozen || mustStatus(t, b, "c1").State != Running {
		t.Errorf("resumed: %v, %v, %s", err, in.frozen, mustStatus(t, b, "c1").State)
	}
	if err := errors.Join(c.Pause(t.Context()), b.Kill(t.Context(), "c1", "", syscall.SIGKILL, true)); err != nil {
		t.Fatal(err)
	}
	b.over("c1", 137)
	if err := b.Kill(t.Context(), "c", "", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	b.over("c", 137)
	b.over("c2", 137)
	b.wantNothing()
}

func mustStatus(t *testing.T, b *podBench, id string) Status {
	t.Helper()
	s, err := b.Status(id, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantOrder checks in which order containers were said to exit.
func (b *podBench) wantOrder(want ...string) {
	b.t.Helper()
	if got := b.events.exits(); !slices.Equal(got, want) {
		b.t.Errorf("exits %v, want %v", got, want)
	}
}

// TestPodMachineEnds: all containers end with the machine, the pod's own last.
func TestPodMachineEnds(t *testing.T) {
	b := newPodBench(t)
	if err := errors.Join(b.add("c1", true), b.add("c2", false)); err != nil {
		t.Fatal(err)
	}
	keeper, _ := b.Container("c")
	b.host.machines.End(keeper.names.Sandbox.Domain(), unikernel.EndFailed)
	b.session.containers["c1"].hangUp()
	for _, id := range []string{"c", "c1", "c2"} {
		b.over(id, 137)
	}
	if got := b.events.exits(); len(got) != 3 || got[2] != "c" {
		t.Errorf("exits %v", got)
	}
	b.wantNothing()
}

// TestPodGuestThatDoesNotRemove: a container whose guest says that it cannot take it
// out ends alone, one of a guest that does not answer with its pod.
func TestPodGuestThatDoesNotRemove(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		alive int
	}{
		"refuses": {fmt.Errorf("it is busy: %w", unikernel.ErrInvalid), 1},
		"silent":  {fmt.Errorf("%w: nothing", unikernel.ErrUnavailable), 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newPodBench(t)
			if err := b.add("c1", true); err != nil {
				t.Fatal(err)
			}
			c := b.session.containers["c1"]
			c.removeErr, c.init.deaf = tt.err, true
			if err := b.Kill(t.Context(), "c1", "", syscall.SIGKILL, true); err != nil {
				t.Fatal(err)
			}
			b.over("c1", 137)
			if got := b.host.machines.Alive(); got != tt.alive {
				t.Errorf("%d machines, want %d", got, tt.alive)
			}
			_ = b.Kill(t.Context(), "c", "", syscall.SIGKILL, true) // it may have ended
			b.over("c", 137)
			b.wantNothing()
		})
	}
}

// TestPodStartFails: the container that cannot be started ends alone.
func TestPodStartFails(t *testing.T) {
	b := newPodBench(t)
	b.session.err = fmt.Errorf("no such disk: %w", unikernel.ErrInvalid)
	if err := b.add("c1", true); err == nil || !strings.Contains(err.Error(), "no such disk") {
		t.Errorf("error %v", err)
	}
	if _, err := b.Delete(t.Context(), "c1", ""); err != nil {
		t.Error(err)
	}
	if b.host.machines.Alive() != 1 {
		t.Error("the machine has ended")
	}
	for what, ns := range map[string]specs.LinuxNamespace{
		"another's network": {Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"},
		"a kept one":        {Type: specs.NetworkNamespace, Path: "/run/netns/x"},
		"host's processes":  {Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"},
	} {
		if err := b.add("c2", false, ns); !errors.Is(err, unikernel.ErrNotImplemented) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if c, _ := b.Container("c"); !errors.Is(c.Pause(t.Context()), unikernel.ErrNotImplemented) {
		t.Error("a pod was paused")
	}
	b.host.guest.planErr = nil
	if err := b.Kill(t.Context(), "c", "", syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	b.over("c", 0)
	b.wantNothing()
}

// TestPodScore: what the containers of a pod asked for adds up.
func TestPodScore(t *testing.T) {
	for _, tt := range []struct {
		each []int
		want int
	}{
		{[]int{1000}, 1000}, {[]int{1000, 1000}, 1000}, // best effort
		{[]int{-997, -997}, -997}, {[]int{-997, 900}, -997}, // guaranteed
		{[]int{950}, 950}, {[]int{950, 980}, 930}, {[]int{1000, 400}, 400},
		{[]int{200, 100, 500}, 3}, {[]int{3, 3}, 3}, {[]int{0, 1000}, 0}, {[]int{2, 999}, 2},
	} {
		if got := podScore(tt.each); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.each, got, tt.want)
		}
	}
}

func TestPodSize(t *testing.T) {
	cfg := config.Pod{MemoryMiB: 2048, VCPUs: 2}
	sums := map[string]string{annotationMemory: "1073741824", annotationCPUQuota: "350000", annotationCPUPeriod: "100000"}
	for name, tt := range map[string]struct {
		annotations map[string]string
		above       cgroup.Bounds
		memory, cpu int
	}{
		"nothing known":         {nil, cgroup.Bounds{}, 2048, 2},
		"a sum":                 {sums, cgroup.Bounds{}, 2048, 4},
		"all have limits":       {sums, cgroup.Bounds{MemoryBytes: 2 << 30, CPUs: 4}, 1024 + guestOwnMiB, 4},
		"limits without a sum":  {nil, cgroup.Bounds{MemoryBytes: 256 << 20, CPUs: 0.5}, 256 + guestOwnMiB, 1},
		"no limit, written out": {map[string]string{annotationMemory: "0", annotationCPUQuota: "-1"}, cgroup.Bounds{}, 2048, 2},
	} {
		got, err := podSize(&specs.Spec{Annotations: tt.annotations}, tt.above, cfg, 4<<30)
		if err != nil || got.MemoryMiB != tt.memory || got.VCPUs != tt.cpu {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := podSize(&specs.Spec{Annotations: map[string]string{annotationMemory: "much"}}, cgroup.Bounds{}, cfg, 4<<30); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a sum that is none: %v", err)
	}
	if _, err := podSize(&specs.Spec{Annotations: sums}, cgroup.Bounds{}, cfg, 512<<20); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "1024 MiB") || !strings.Contains(err.Error(), "512 MiB") {
		t.Errorf("more than the host has: %v", err)
	}
}

// TestCleanupOfAPod: what a shim that died left of a pod is freed with the pod's own
// container, also of containers for which nobody asks; one of them frees its own alone.
func TestCleanupOfAPod(t *testing.T) {
	b := newBench(t)
	storage := config.Storage{StateDir: b.dir + "/s", DataDir: b.dir + "/d"}
	keeper := NewNames(storage, "ns", "c", "c")
	members := []Names{NewNames(storage, "ns", "c1", "c"), NewNames(storage, "ns", "c2", "c")}
	if err := os.MkdirAll(keeper.Sandbox.State, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, n := range members {
		if err := errors.Join(recordMember(n, filepath.Join(b.dir, n.ID)), os.MkdirAll(n.Data, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Cleanup(t.Context(), members[0], "", filepath.Join(b.dir, "c1"), b.host.networks, b.host.disks); err != nil {
		t.Fatal(err)
	}
	if members[0].Exists() || !members[1].Exists() || !keeper.Sandbox.Exists() {
		t.Errorf("after the first: %v, %v, %v", members[0].Exists(), members[1].Exists(), keeper.Sandbox.Exists())
	}
	if left, err := recordedMembers(keeper); err != nil || len(left) != 1 || left[0].names != members[1] {
		t.Errorf("records %+v, %v", left, err)
	}
	if err := Cleanup(t.Context(), keeper, "", b.bundle, b.host.networks, b.host.disks); err != nil {
		t.Fatal(err)
	}
	b.wantNothing()
}
