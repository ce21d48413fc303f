package linux

import (
	"context"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// podDisks are a container's disks in a pod, by the name of the container.
func podDisks(name string) []unikernel.DiskRequest {
	return []unikernel.DiskRequest{
		{Kind: unikernel.DiskRoot, Serial: name + "-root"}, {Kind: unikernel.DiskWritable, Serial: name + "-upper"}}
}

// addMember makes a container of a session that is configured.
func addMember(t *testing.T, s unikernel.Session, name string) unikernel.ContainerSession {
	t.Helper()
	c, err := s.(unikernel.PodSession).Container(testContext(t), testApp(), podDisks(name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answered calls f while the guest answers one request of the host with r.
func answered(t *testing.T, g *fakeGuest, kind wire.Kind, r wire.Reply, f func()) wire.Frame {
	t.Helper()
	asked := make(chan wire.Frame, 1)
	go func() {
		frame := g.next(kind)
		asked <- wire.Frame{Kind: frame.Kind, ID: frame.ID, Payload: append([]byte(nil), frame.Payload...)}
		g.reply(frame.ID, r)
	}()
	f()
	return <-asked
}

// setUp configures the machine while the guest answers.
func setUp(t *testing.T) (unikernel.PodSession, *fakeGuest) {
	t.Helper()
	s, g := attach(t)
	pod := s.(unikernel.PodSession)
	var err error
	// The guest reads until it is asked for something else: Stats, here.
	answered(t, g, wire.KindStats, wire.Reply{Code: wire.CodeNotFound}, func() {
		err = pod.Configure(testContext(t), testApp(), "uni")
		s.(unikernel.Accountant).Stats(testContext(t))
	})
	if err != nil {
		t.Fatal(err)
	}
	return pod, g
}

// TestMembers: what is asked of a container names it, and what the guest tells of
// one reaches nobody else.
func TestMembers(t *testing.T) {
	s, g := setUp(t)
	if err := s.Configure(testContext(t), testApp(), ""); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a machine configured twice: %v", err)
	}
	var told [2]atomic.Int32
	var members [2]unikernel.ContainerSession
	var first [2]uint32
	for i, name := range []string{"a", "b"} {
		started := make(chan wire.Start, 1)
		go func() { started <- g.accept() }()
		members[i] = addMember(t, s, name)
		members[i].OnOOM(func() { told[i].Add(1) })
		if _, err := members[i].Run(testContext(t), unikernel.Stdio{}); err != nil {
			t.Fatal(err)
		}
		x := <-started
		first[i] = x.Container
		c := g.made[len(g.made)-1]
		if c.ID != x.Container || c.Root != name+"-root" || c.Upper != name+"-upper" || c.PIDs.Kind != wire.PIDOwn {
			t.Errorf("container %s is %+v, its process in %d", name, c, x.Container)
		}
		if _, err := members[i].Run(testContext(t), unikernel.Stdio{}); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("a container started twice: %v", err)
		}
	}
	if first[0] == first[1] {
		t.Fatalf("both containers are %d", first[0])
	}
	x := answered(t, g, wire.KindExec, wire.Reply{}, func() {
		if _, err := members[1].Exec(testContext(t), "x", testApp().Spec.Process, unikernel.Stdio{}); err != nil {
			t.Error(err)
		}
	})
	if e, err := wire.DecodeStart(x.Payload); err != nil || e.Container != first[1] {
		t.Errorf("exec in %d, %v; want %d", e.Container, err, first[1])
	}
	q := answered(t, g, wire.KindStats, wire.Reply{Data: wire.Stats{Files: [][2]string{{"pids.current", "7"}}}.Encode()}, func() {
		if st, err := members[0].Stats(testContext(t)); err != nil || st.Pids != 7 {
			t.Errorf("statistics: %+v, %v", st, err)
		}
	})
	if target, err := wire.DecodeTarget(q.Payload); err != nil || target.Container != first[0] {
		t.Errorf("statistics of %d, %v; want %d", target.Container, err, first[0])
	}
	// A frame that the session has read before the answer that comes next.
	g.send(wire.KindOOM, 0, wire.OOM{Container: first[1], Kills: 2}.Encode())
	answered(t, g, wire.KindRemove, wire.Reply{Code: wire.CodeInternal, Text: "busy"}, func() {
		if err := members[0].Remove(testContext(t)); err == nil {
			t.Error("a removal that failed is none")
		}
	})
	if a, b := told[0].Load(), told[1].Load(); a != 0 || b != 1 {
		t.Errorf("told %d and %d times, want 0 and 1", a, b)
	}
	answered(t, g, wire.KindRemove, wire.Reply{}, func() {
		if err := members[0].Remove(testContext(t)); err != nil {
			t.Error(err)
		}
	})
	// Of one that is gone there may be a late word; of one that never was, none.
	g.send(wire.KindOOM, 0, wire.OOM{Container: first[0], Kills: 1}.Encode())
	answered(t, g, wire.KindShutdown, wire.Reply{}, func() {
		if err := s.Shutdown(testContext(t)); err != nil {
			t.Error(err)
		}
	})
	g.send(wire.KindOOM, 0, wire.OOM{Container: first[1] + 1, Kills: 1}.Encode())
	within(t, "the end of the session", s.(*session).done)
}

// TestMemberNobodyWaitsFor: a container that is made after its caller gave up is
// removed.
func TestMemberNobodyWaitsFor(t *testing.T) {
	s, g := setUp(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan uint32, 1)
	g.make = func(request uint32, _ wire.Container) {
		cancel()
		asked <- request
	}
	removed := make(chan wire.Frame, 1)
	go func() { removed <- g.next(wire.KindRemove) }()
	if _, err := s.Container(ctx, testApp(), podDisks("a")); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	g.reply(<-asked, wire.Reply{})
	f := <-removed
	if target, err := wire.DecodeTarget(f.Payload); err != nil || target.Container != g.made[0].ID {
		t.Errorf("removed %+v, %v", target, err)
	}
	g.reply(f.ID, wire.Reply{})
}

// TestSpaceBeforeTheContainer: what is told of the host's disk before there is a
// container comes with it.
func TestSpaceBeforeTheContainer(t *testing.T) {
	s, g := attach(t)
	if err := s.(unikernel.Spacious).Space(testContext(t), 1<<30, -1); err != nil {
		t.Fatal(err)
	}
	runProcess(t, s, g, unikernel.Stdio{})
	if c := g.made[0]; c.Space == nil || *c.Space != (wire.Space{Free: 1 << 30}) {
		t.Errorf("the container came with %+v", c.Space)
	}
	f := answered(t, g, wire.KindSpace, wire.Reply{}, func() {
		if err := s.(unikernel.Spacious).Space(testContext(t), 5, 6); err != nil {
			t.Error(err)
		}
	})
	if sp, err := wire.DecodeSetSpace(f.Payload); err != nil || sp != (wire.SetSpace{Container: g.made[0].ID, Space: wire.Space{Free: 5, Held: 6}}) {
		t.Errorf("then %+v, %v", sp, err)
	}
}

// TestMemberLimits: a container that is alone has the machine's memory and
// processors; one of several has limits of its own.
func TestMemberLimits(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	period, shares := uint64(100_000), uint64(1024)
	a := testApp()
	a.Spec.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: number(1 << 26)}, Pids: &specs.LinuxPids{Limit: number(50)},
		CPU: &specs.LinuxCPU{Quota: number(50_000), Period: &period, Shares: &shares}}
	memory, pids := uint64(1<<26), uint64(50)
	want := wire.Limits{Memory: &memory, Pids: &pids, CPU: &wire.CPU{Quota: 50_000, Period: 100_000, Weight: 39}}
	if got := limits(a.Spec); !reflect.DeepEqual(got, want) {
		t.Errorf("limits %+v, %+v", got, got.CPU)
	}
	a.Spec.Linux.Resources.CPU.Quota, a.Spec.Linux.Resources.Memory.Limit, a.Spec.Linux.Resources.Pids.Limit = number(-1), number(-1), number(0)
	if got := limits(a.Spec); got.Memory != nil || got.Pids != nil || got.CPU.Quota != 0 {
		t.Errorf("without limits: %+v", got)
	}
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares have weight %d, want %d", shares, got, want)
		}
	}
	s, g := attach(t)
	go g.acceptStart()
	if _, err := s.Run(testContext(t), a, unikernel.Stdio{}); err != nil {
		t.Fatal(err)
	}
	if l := g.made[0].Limits; l.Memory != nil || l.CPU != nil {
		t.Errorf("a lone container came with %+v", l)
	}
	a.Spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"}
	if _, err := s.(unikernel.PodSession).Container(testContext(t), a, podDisks("x")); !errors.Is(err, unikernel.ErrNotImplemented) {
		t.Errorf("kernel parameters of one container: %v", err)
	}
	if _, err := s.(unikernel.PodSession).Container(testContext(t), testApp(), nil); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a container without a root: %v", err)
	}
}
