package task

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fakeTemplates has one of every shape, or says why not.
type fakeTemplates struct {
	findErr, verifyErr error

	mu       sync.Mutex
	rejected []error
	ordered  []unikernel.Machine
}

func (f *fakeTemplates) Find(string) (string, error) { return "/state", f.findErr }
func (f *fakeTemplates) Verify(string) error         { return f.verifyErr }
func (f *fakeTemplates) Reject(_ string, why error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rejected = append(f.rejected, why)
	return nil
}
func (f *fakeTemplates) Order(_ string, m unikernel.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ordered = append(f.ordered, m)
}

// TestTemplates: whatever is wrong with a template, the container runs, in a machine
// that boots; and only what is the template's fault is held against it.
func TestTemplates(t *testing.T) {
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		set                func(*bench, *fakeTemplates)
		saved              []bool // of the machines that are made
		rejected, ordered  int
		withNetworkAtStart bool
	}{
		"none":     {set: func(_ *bench, f *fakeTemplates) { f.findErr = fs.ErrNotExist }, saved: []bool{false}, ordered: 1},
		"one":      {set: func(*bench, *fakeTemplates) {}, saved: []bool{true}},
		"half one": {set: func(_ *bench, f *fakeTemplates) { f.findErr = boom }, saved: []bool{false}, rejected: 1},
		"damaged":  {set: func(_ *bench, f *fakeTemplates) { f.verifyErr = boom }, saved: []bool{true, false}, rejected: 1},
		"does not load": {set: func(b *bench, _ *fakeTemplates) { b.host.machines.LoadErr = boom },
			saved: []bool{true, false}, rejected: 1},
		"vanishes": {set: func(b *bench, f *fakeTemplates) {
			b.host.machines.LoadErr, f.verifyErr = fs.ErrNotExist, fs.ErrNotExist
		},
			saved: []bool{true, false}},
		"ends when it runs": {set: func(b *bench, _ *fakeTemplates) {
			b.host.machines.OnResume = func(name string) {
				b.host.machines.OnResume = nil
				b.host.machines.End(name, unikernel.EndFailed)
			}
			b.host.guest.attach = func(context.Context) error { return boomOnce(b) }
		}, saved: []bool{true, false}, rejected: 1},
		"says nothing": {set: func(b *bench, _ *fakeTemplates) {
			b.host.guest.attach = func(context.Context) error { return boomOnce(b) }
		}, saved: []bool{true, false}, rejected: 1},
		"of another network": {set: func(*bench, *fakeTemplates) {}, withNetworkAtStart: true, saved: []bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			templates := &fakeTemplates{}
			b.host.templates = templates
			test.set(b, templates)
			b.must(false)
			if test.withNetworkAtStart {
				b.host.networks.found = podNetwork
			}
			if _, err := b.Start(t.Context(), "c", ""); err != nil {
				t.Fatal(err)
			}
			made := b.host.machines.Made
			if len(made) != len(test.saved) {
				t.Fatalf("%d machines were made, want %d", len(made), len(test.saved))
			}
			for i, m := range made {
				if (m.Saved != "") != test.saved[i] {
					t.Errorf("machine %d goes on from %q", i, m.Saved)
				}
			}
			if len(templates.rejected) != test.rejected || len(templates.ordered) != test.ordered {
				t.Errorf("rejected %v, ordered %d; want %d and %d", templates.rejected, len(templates.ordered), test.rejected, test.ordered)
			}
			b.wantState(Running)
			b.session.init.end(3)
			if got := b.wait(); got != 3 {
				t.Errorf("status %d", got)
			}
			b.remove()
			b.wantNothing()
		})
	}
}

// boomOnce fails the first time, and not when another machine is tried.
func boomOnce(b *bench) error {
	if len(b.host.machines.Made) == 1 {
		return errors.New("boom")
	}
	return nil
}

// TestTemplateNotForAll: a machine that shares a directory boots, and none is ordered
// for it.
func TestTemplateNotForAll(t *testing.T) {
	b := newBench(t)
	templates := &fakeTemplates{}
	b.host.templates = templates
	dir := t.TempDir()
	b.spec.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: dir, Options: []string{"rbind"}}}
	if os.Geteuid() != 0 {
		t.Skip("root is needed")
	}
	b.must(true)
	if m := b.host.machines.Made; len(m) != 1 || m[0].Saved != "" || len(templates.ordered) > 0 {
		t.Errorf("%+v, ordered %d", m, len(templates.ordered))
	}
	b.session.init.end(0)
	b.wait()
	b.remove()
	b.wantNothing()
}

// TestKillWhileForked: SIGKILL ends a machine whose guest does not answer, and no other
// takes its place.
func TestKillWhileForked(t *testing.T) {
	b := newBench(t)
	templates := &fakeTemplates{}
	b.host.templates = templates
	asked := make(chan struct{})
	b.host.guest.attach = func(ctx context.Context) error {
		close(asked)
		<-ctx.Done()
		return ctx.Err()
	}
	b.must(false)
	started := make(chan error, 1)
	go func() {
		_, err := b.Start(context.Background(), "c", "")
		started <- err
	}()
	<-asked
	b.kill(syscall.SIGKILL)
	if err := <-started; err == nil {
		t.Error("a container that was killed has started")
	}
	if got := b.wait(); got != statusKilled {
		t.Errorf("status %d", got)
	}
	if n := len(b.host.machines.Made); n != 1 || len(templates.rejected) > 0 {
		t.Errorf("%d machines were made, rejected %v", n, templates.rejected)
	}
	b.remove()
	b.wantNothing()
}
