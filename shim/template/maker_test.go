package template

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/shim/sandbox/sandboxtest"
	"containerd-shim-uni/shim/template/order"
	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux"
)

// machines are saved, too.
type machines struct {
	sandboxtest.Machines
	saveErr error
}

func (m *machines) Save(_ context.Context, _ string, to *os.File) error {
	_, err := to.WriteString("state")
	return errors.Join(err, m.saveErr)
}

// networks remembers what was made and not removed.
type networks struct{ namespace, taps bool }

func (n *networks) New(path string) error {
	n.namespace = true
	return os.WriteFile(path, nil, 0o600)
}
func (n *networks) Drop(string) error { n.namespace = false; return nil }
func (n *networks) Tap(_, _ string, found unikernel.Network, queues int) (nics []unikernel.NIC, err error) {
	n.taps = true
	for _, i := range found.Interfaces {
		nics = append(nics, unikernel.NIC{Tap: "tap-" + i.Name, MAC: i.MAC, Queues: queues})
	}
	return nics, nil
}
func (n *networks) Remove(string, string) error { n.taps = false; return nil }

// session is one that is parked.
type session struct {
	unikernel.Session
	conn    io.Closer
	parkErr error
	parked  *int
}

func (s session) Park(context.Context) error { *s.parked++; return s.parkErr }
func (s session) Close() error               { return s.conn.Close() }

type guest struct {
	attachErr []error // one after the other
	parkErr   error
	attached  int
	parked    int
}

func (g *guest) Attach(_ context.Context, conn io.ReadWriteCloser) (unikernel.Session, error) {
	g.attached++
	if len(g.attachErr) >= g.attached && g.attachErr[g.attached-1] != nil {
		conn.Close()
		return nil, g.attachErr[g.attached-1]
	}
	return session{conn: conn, parkErr: g.parkErr, parked: &g.parked}, nil
}

// store writes to a file and keeps nothing.
type store struct{ dir, about, wrote string }

func (s *store) Make(_, about string, _ bool, write func(*os.File) error) error {
	f, err := os.Create(filepath.Join(s.dir, "state"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	data, err := os.ReadFile(f.Name())
	s.about, s.wrote = about, string(data)
	return err
}

func newMaker(t *testing.T) (Maker, *machines, *networks, *guest, *store) {
	t.Helper()
	before := settle
	settle = 0
	t.Cleanup(func() { settle = before })
	dir, err := os.MkdirTemp("", "tm") // the path of a Unix socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m, n, g, s := &machines{}, &networks{}, &guest{}, &store{dir: dir}
	return Maker{Machines: m, Networks: n, Guest: g, Store: s, Dir: filepath.Join(dir, "m"), BootTimeout: 10 * time.Second}, m, n, g, s
}

// shape is a machine with one of everything.
func shape() unikernel.Machine {
	return unikernel.Machine{
		Name: "somebody's", Title: "somebody", Type: "microvm", Resources: unikernel.Resources{MemoryMiB: 64, VCPUs: 1}, Kernel: "/k",
		Disks: []unikernel.Disk{{Path: "/d/root", Serial: "root", ReadOnly: true}, {Path: "/d/w", Serial: "w"}},
		NICs:  []unikernel.NIC{{Tap: "t", MAC: "52:54:00:12:34:56", Queues: 1}}, Channels: []unikernel.Channel{{Name: "ctl", Socket: "/s"}}, Console: "/c",
	}
}

func wantNothing(t *testing.T, k Maker, m *machines, n *networks) {
	t.Helper()
	if m.Alive() > 0 || n.namespace || n.taps {
		t.Errorf("left: %d machines, namespace %t, taps %t", m.Alive(), n.namespace, n.taps)
	}
	if _, err := os.Stat(k.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", k.Dir, err)
	}
}

// TestMake: a machine boots, is parked and saved, and another one goes on from it;
// neither has anything that is somebody's.
func TestMake(t *testing.T) {
	k, m, n, g, s := newMaker(t)
	if err := k.Make(t.Context(), shape(), false); err != nil {
		t.Fatal(err)
	}
	if s.wrote != "state" || s.about != "microvm, 64 MiB, 1 CPUs, 2 disks, 1 interfaces" {
		t.Errorf("wrote %q, about %q", s.wrote, s.about)
	}
	if g.attached != 2 || g.parked != 1 || len(m.Made) != 2 || m.Made[0].Saved != "" || m.Made[1].Saved == "" {
		t.Errorf("attached %d, parked %d, machines %+v", g.attached, g.parked, m.Made)
	}
	for _, made := range m.Made {
		paths := []string{made.Console, made.Channels[0].Socket, made.NetNS}
		for _, d := range made.Disks {
			paths = append(paths, d.Path)
		}
		if made.Name != name || slices.ContainsFunc(paths, func(p string) bool { return !strings.HasPrefix(p, k.Dir+"/") }) || made.NICs[0].Tap != "tap-eth0" {
			t.Errorf("machine %+v", made)
		}
	}
	wantNothing(t, k, m, n)
}

// TestMakeFails: whatever fails, nothing is written and nothing is left.
func TestMakeFails(t *testing.T) {
	boom := errors.New("boom")
	for what, fail := range map[string]func(*machines, *guest){
		"create":           func(m *machines, _ *guest) { m.CreateErr = boom },
		"resume":           func(m *machines, _ *guest) { m.ResumeErr = boom },
		"boot":             func(_ *machines, g *guest) { g.attachErr = []error{boom} },
		"park":             func(_ *machines, g *guest) { g.parkErr = boom },
		"save":             func(m *machines, _ *guest) { m.saveErr = boom },
		"load":             func(m *machines, _ *guest) { m.LoadErr = boom },
		"guest of another": func(_ *machines, g *guest) { g.attachErr = []error{nil, boom} },
	} {
		t.Run(what, func(t *testing.T) {
			k, m, n, g, s := newMaker(t)
			fail(m, g)
			if err := k.Make(t.Context(), shape(), false); !errors.Is(err, boom) {
				t.Errorf("%v", err)
			}
			if s.wrote != "" {
				t.Error("there is a template")
			}
			wantNothing(t, k, m, n)
		})
	}
}

// TestMakeIsToldToEnd: it ends, and nothing is left.
func TestMakeIsToldToEnd(t *testing.T) {
	k, m, n, _, _ := newMaker(t)
	settle = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := k.Make(ctx, shape(), false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	wantNothing(t, k, m, n)
}

// TestLone: what "uni template make" orders is what a container's machine is.
func TestLone(t *testing.T) {
	g := linux.New(linux.Config{Kernel: "/k", Initrd: "/i", TSCKHz: -1})
	c := order.Container{Resources: unikernel.Resources{MemoryMiB: 256, VCPUs: 2}, Interfaces: 1}
	m, err := Lone(c, g)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Disks) != 2 || !m.Disks[0].ReadOnly || m.Disks[1].ReadOnly || len(m.NICs) != 1 || m.NICs[0].Queues != 2 || m.MemoryMiB != 256 || len(m.Channels) != 1 {
		t.Errorf("%+v", m)
	}
	c.ReadOnly = true
	if m, err = Lone(c, g); err != nil || len(m.Disks) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}
