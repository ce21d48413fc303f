package task

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var podNetwork = unikernel.Network{Interfaces: []unikernel.Interface{{Name: "eth0", MAC: "0a:58:0a:f4:00:02", MTU: 1500}}}

// recordHooks makes every hook of the host append its kind to a file.
func (b *bench) recordHooks() (read func() string) {
	file := filepath.Join(b.dir, "hooks")
	hook := func(kind string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo " + kind + " >>" + file}}}
	}
	b.spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), //lint:ignore SA1019 in use
		Poststart: hook("poststart"), Poststop: hook("poststop"),
	}
	return func() string {
		data, _ := os.ReadFile(file)
		return strings.Join(strings.Fields(string(data)), " ")
	}
}

// recordPid makes a hook keep the container's number as it is told.
func (b *bench) recordPid() (read func() int) {
	file := filepath.Join(b.dir, "state")
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >" + file}}}}
	return func() int {
		var state specs.State
		data, err := os.ReadFile(file)
		if err = errors.Join(err, json.Unmarshal(data, &state)); err != nil {
			b.t.Error(err)
		}
		return state.Pid
	}
}

func TestHooks(t *testing.T) {
	b := newBench(t)
	ran := b.recordHooks()
	b.host.networks.found = podNetwork
	b.must(false)
	if got := ran(); got != "prestart createRuntime" {
		t.Errorf("after create: %q", got)
	}
	if got := len(b.host.machines.Made[0].NICs); got != 1 {
		t.Errorf("the machine has %d interfaces, the hooks made one", got)
	}
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	b.session.init.end(0)
	b.wait()
	b.remove()
	if got := ran(); got != "prestart createRuntime poststart poststop" {
		t.Errorf("in the end: %q", got)
	}
	b.wantNothing()
}

// TestHooksAreTakenBack: what createRuntime did is undone by poststop when the
// container then cannot be created.
func TestHooksAreTakenBack(t *testing.T) {
	b := newBench(t)
	ran := b.recordHooks()
	b.host.machines.CreateErr = errors.New("boom")
	if _, err := b.create(); err == nil {
		t.Fatal("created")
	}
	if got := ran(); got != "prestart createRuntime poststop" {
		t.Errorf("ran %q", got)
	}
	b.wantNothing()
}

func TestFailingHook(t *testing.T) {
	b := newBench(t)
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no network >&2; exit 1"}}}}
	if _, err := b.create(); err == nil || !strings.Contains(err.Error(), "no network") {
		t.Errorf("error %v", err)
	}
	b.wantNothing()
}

// TestLateNetwork: a namespace that is filled between create and start makes
// the machine be made again, with its interfaces, and nobody outside sees the
// first one end.
func TestLateNetwork(t *testing.T) {
	b := newBench(t)
	b.must(false)
	b.host.networks.found = podNetwork
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	b.wantState(Running)
	made := b.host.machines.Made
	if len(made) != 2 || len(made[0].NICs) != 0 || len(made[1].NICs) != 1 {
		t.Fatalf("machines made: %+v", made)
	}
	if made[1].NetNS == "" || b.host.machines.Alive() != 1 {
		t.Errorf("namespace %q, %d machines run", made[1].NetNS, b.host.machines.Alive())
	}
	b.session.init.end(3)
	if got := b.wait(); got != 3 {
		t.Errorf("status %d", got)
	}
	b.remove()
	b.wantEvents("create", "start", "exit", "delete")
	b.wantNothing()
}

func TestLateNetworkFails(t *testing.T) {
	b := newBench(t)
	b.must(false)
	b.host.networks.found = podNetwork
	b.host.machines.CreateErr = errors.New("boom")
	if _, err := b.Start(t.Context(), "c", ""); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error %v", err)
	}
	b.wait()
	b.remove()
	b.wantEvents("create", "exit", "delete")
	b.wantNothing()
}

func TestJoinedNamespaceIsNotOurs(t *testing.T) {
	b := newBench(t)
	b.spec.Linux.Namespaces[0].Path = "/run/netns/x"
	b.must(true)
	if got := b.host.machines.Made[0].NetNS; got != "/run/netns/x" || b.host.networks.namespaces != 0 {
		t.Errorf("namespace %q, %d made", got, b.host.networks.namespaces)
	}
}

// TestOccupant: containerd and hooks are told of one process in the container's
// network namespace, and the container ends with it.
func TestOccupant(t *testing.T) {
	for _, kill := range []bool{false, true} {
		b := newBench(t)
		told := b.recordPid()
		b.must(true)
		occupant := b.host.networks.occupants[0]
		if got := b.containers["c"].Status().Pid; got != occupant.Process.Pid {
			t.Errorf("pid %d, want %d", got, occupant.Process.Pid)
		}
		if len(b.host.networks.occupants) != 1 || told() != occupant.Process.Pid {
			t.Errorf("%d processes, hooks were told of %d, want %d", len(b.host.networks.occupants), told(), occupant.Process.Pid)
		}
		want := uint32(3)
		if kill {
			if err := occupant.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			want = statusKilled
		} else {
			b.session.init.end(3)
		}
		if got := b.wait(); got != want {
			t.Errorf("status %d, want %d", got, want)
		}
		b.remove()
		b.wantEvents("create", "start", "exit", "delete")
		b.wantNothing()
	}
}

// TestForwarding: what connects on the host is carried to the guest as long as the
// container is there, and one that starts needs nothing of it.
func TestForwarding(t *testing.T) {
	b := newBench(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.host.networks.listeners = []net.Listener{l}
	c := b.must(true)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if said, err := io.ReadAll(conn); err != nil || string(said) != l.Addr().String() {
		t.Errorf("the guest was asked for %q, %v", said, err)
	}
	b.end(c)
	b.remove()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the container, the listener says %v", err)
	}

	b = newBench(t)
	b.host.networks.listenErr = os.ErrPermission
	b.must(true)
}
