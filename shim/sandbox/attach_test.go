package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/sandbox/sandboxtest"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
)

// aHost has no networks, and nothing else either.
type aHost struct{ Host }

func (aHost) Networks(config.Config) Networks { return nil }

func (aHost) Templates(config.Config) Templates { return nil }

// upWith is a sandbox with a running machine that has a cold disk, and the
// machines. Calls have a second.
func upWith(t *testing.T) (*Sandbox, *sandboxtest.Machines) {
	t.Helper()
	before := [...]time.Duration{attachTimeout, detachTimeout, lastWords}
	attachTimeout, detachTimeout, lastWords = time.Second, time.Second, 50*time.Millisecond
	t.Cleanup(func() { attachTimeout, detachTimeout, lastWords = before[0], before[1], before[2] })
	dir, err := os.MkdirTemp("", "m") // the path of a Unix socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	machines := &sandboxtest.Machines{}
	s := New(aHost{}, Spec{Names: Names{Namespace: "default", ID: "pod", Key: "k", State: dir}})
	s.machines = machines
	s.hardware = Hardware{LUNs: true, Disks: []unikernel.Disk{{Serial: "cold"}}}
	if _, err := machines.Create(t.Context(), s.document(nil)); err != nil {
		t.Fatal(err)
	}
	s.state = Up
	s.watch()
	t.Cleanup(func() { machines.End(s.names.Domain(), unikernel.EndDestroyed); s.watchers.Wait() })
	return s, machines
}

// file is a disk that exists.
func file(t *testing.T, serial string) unikernel.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), serial)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return unikernel.Disk{Path: path, Format: "raw", Serial: serial}
}

// has checks which disks are where.
func has(t *testing.T, s *Sandbox, machines *sandboxtest.Machines, want map[int]string) {
	t.Helper()
	if got := machines.Disks(s.names.Domain()); !maps.Equal(got, want) {
		t.Errorf("the machine has %v, want %v", got, want)
	}
}

func TestAttachUnits(t *testing.T) {
	s, machines := upWith(t)
	a, b, c, d := file(t, "a"), file(t, "b"), file(t, "c"), file(t, "d")
	must(t, s.Attach(t.Context(), a, b, c))
	has(t, s, machines, map[int]string{0: "a", 1: "b", 2: "c"})
	must(t, s.Detach(t.Context(), b))
	must(t, s.Detach(t.Context(), b)) // not there
	must(t, s.Attach(t.Context(), d))
	has(t, s, machines, map[int]string{0: "a", 1: "d", 2: "c"})
	for _, again := range []string{"a", "cold"} {
		if err := s.Attach(t.Context(), b, file(t, again)); !errors.Is(err, errdefs.ErrAlreadyExists) {
			t.Errorf("a second disk %s: %v", again, err)
		}
	}
	if err := s.Attach(t.Context(), b, b); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("a disk twice: %v", err)
	}
	if err := s.Attach(t.Context(), unikernel.Disk{Path: a.Path}); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a disk without a serial: %v", err)
	}
	var rest []unikernel.Disk
	for i := range unikernel.MaxLUNs - 3 {
		rest = append(rest, file(t, fmt.Sprint("rest-", i)))
	}
	if err := s.Attach(t.Context(), append(rest, b)...); !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), "holds 256 disks") {
		t.Errorf("one more than there is room for: %v", err)
	}
	must(t, s.Attach(t.Context(), rest...))
	if n := len(machines.Disks(s.names.Domain())); n != unikernel.MaxLUNs {
		t.Errorf("%d disks", n)
	}
	must(t, s.Detach(t.Context(), append(rest, a, b, c, d)...))
	has(t, s, machines, map[int]string{})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestAttachRefused(t *testing.T) {
	s, machines := upWith(t)
	for _, state := range States {
		s.state = state
		if err := s.Attach(t.Context(), file(t, "a")); (err == nil) != (state == Up) || err != nil && !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("attach in %s: %v", state, err)
		}
	}
	for _, state := range []State{Pausing, Paused, Resuming} {
		s.state = Up
		must(t, s.Attach(t.Context(), file(t, "b")))
		s.state = state
		must(t, s.Detach(t.Context(), file(t, "b")))
		has(t, s, machines, map[int]string{0: "a"})
	}
	s.state, s.hardware.LUNs = Up, false
	if err := s.Attach(t.Context(), file(t, "b")); !errors.Is(err, unikernel.ErrNotImplemented) {
		t.Errorf("attach without a controller: %v", err)
	}
}

// TestAttachFails: of disks that are attached together none stays when one fails,
// and not the one of which it is not known either.
func TestAttachFails(t *testing.T) {
	for _, doubtful := range []bool{false, true} {
		t.Run(fmt.Sprint("doubtful ", doubtful), func(t *testing.T) {
			s, machines := upWith(t)
			broken := errors.New("broken")
			machines.Doubtful = doubtful
			machines.OnAttach = func(d unikernel.Disk) error {
				if d.Serial == "b" {
					return broken
				}
				return nil
			}
			must(t, s.Attach(t.Context(), file(t, "other")))
			if err := s.Attach(t.Context(), file(t, "a"), file(t, "b"), file(t, "c")); !errors.Is(err, broken) {
				t.Errorf("attach: %v", err)
			}
			has(t, s, machines, map[int]string{0: "other"})
			machines.OnAttach = nil
			must(t, s.Attach(t.Context(), file(t, "a"), file(t, "b")))
			has(t, s, machines, map[int]string{0: "other", 1: "a", 2: "b"})
		})
	}
}

// TestAttachAbandoned: when the client goes while its disk comes, it does not stay.
func TestAttachAbandoned(t *testing.T) {
	s, machines := upWith(t)
	ctx, cancel := context.WithCancel(t.Context())
	machines.Doubtful = true
	machines.OnAttach = func(unikernel.Disk) error { cancel(); return ctx.Err() }
	if err := s.Attach(ctx, file(t, "a"), file(t, "b")); !errors.Is(err, context.Canceled) {
		t.Errorf("attach: %v", err)
	}
	has(t, s, machines, map[int]string{})
	if err := s.Attach(ctx, file(t, "c")); !errors.Is(err, context.Canceled) {
		t.Errorf("attach for nobody: %v", err)
	}
	has(t, s, machines, map[int]string{})
	machines.OnAttach = nil
	must(t, s.Attach(t.Context(), file(t, "a")))
	must(t, s.Detach(ctx, file(t, "a"))) // whatever becomes of who asks
	has(t, s, machines, map[int]string{})
}

// TestAttachHangs: calls end although the hypervisor answers nothing, and a unit is
// not given to another disk before it is known to be free.
func TestAttachHangs(t *testing.T) {
	s, machines := upWith(t)
	attachTimeout, detachTimeout = 50*time.Millisecond, 50*time.Millisecond
	must(t, s.Attach(t.Context(), file(t, "a")))
	machines.Stop()
	machines.Doubtful = true // it comes when the hypervisor answers again
	if err := s.Attach(t.Context(), file(t, "b")); !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "detach disk b") {
		t.Errorf("attach: %v", err)
	}
	if err := s.Detach(t.Context(), file(t, "a")); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("detach: %v", err)
	}
	machines.Continue()
	must(t, s.Attach(t.Context(), file(t, "c")))
	has(t, s, machines, map[int]string{0: "a", 1: "b", 2: "c"})
	must(t, s.Detach(t.Context(), file(t, "a"), file(t, "b")))
	must(t, s.Attach(t.Context(), file(t, "d"), file(t, "b")))
	has(t, s, machines, map[int]string{0: "d", 1: "b", 2: "c"})
}

// TestDetachFails: one that fails keeps its unit, and no other from being tried.
func TestDetachFails(t *testing.T) {
	s, machines := upWith(t)
	broken := errors.New("broken")
	must(t, s.Attach(t.Context(), file(t, "a"), file(t, "b")))
	machines.OnDetach = func(d unikernel.Disk) error {
		if d.Serial == "a" {
			return broken
		}
		return nil
	}
	if err := s.Detach(t.Context(), file(t, "a"), file(t, "b")); !errors.Is(err, broken) {
		t.Errorf("detach: %v", err)
	}
	has(t, s, machines, map[int]string{0: "a"})
	machines.OnDetach = nil
	must(t, s.Attach(t.Context(), file(t, "c")))
	must(t, s.Detach(t.Context(), file(t, "a")))
	has(t, s, machines, map[int]string{1: "c"})
}

// TestAttachEnd: a machine that ends while a disk comes or goes has none: nobody
// waits for it, and its processes have ended when Detach returns.
func TestAttachEnd(t *testing.T) {
	for _, doing := range []string{"attach", "detach"} {
		t.Run(doing, func(t *testing.T) {
			s, machines := upWith(t)
			must(t, s.Attach(t.Context(), file(t, "a")))
			attachTimeout, lastWords = time.Hour, time.Minute
			ends := func(unikernel.Disk) error {
				machines.End(s.names.Domain(), unikernel.EndFailed)
				<-s.Ended()
				return errors.New("the monitor hung up")
			}
			if doing == "attach" {
				machines.Stop() // only the end of the call's context ends it
				time.AfterFunc(10*time.Millisecond, func() { machines.End(s.names.Domain(), unikernel.EndFailed) })
				if err := s.Attach(t.Context(), file(t, "b")); !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "has ended") {
					t.Errorf("attach: %v", err)
				}
			} else {
				machines.OnDetach = ends
			}
			must(t, s.Detach(t.Context(), file(t, "a")))
			if len(machines.Destroyed) == 0 {
				t.Error("what may be left of the machine was not awaited")
			}
			must(t, s.Detach(t.Context(), file(t, "a"), file(t, "b")))
		})
	}
}

// TestAttachAtOnce: containers that come and go at the same time have disks of
// their own.
func TestAttachAtOnce(t *testing.T) {
	s, machines := upWith(t)
	attachTimeout, detachTimeout = time.Minute, time.Minute
	var all sync.WaitGroup
	for i := range 8 {
		disks := []unikernel.Disk{file(t, fmt.Sprint("root-", i)), file(t, fmt.Sprint("writable-", i))}
		all.Go(func() {
			for range 20 {
				if err := s.Attach(t.Context(), disks...); err != nil {
					t.Error(err)
				}
				if err := s.Detach(t.Context(), disks...); err != nil {
					t.Error(err)
				}
			}
			if err := s.Attach(t.Context(), disks...); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	there := machines.Disks(s.names.Domain())
	serials := map[string]bool{}
	for unit, serial := range there {
		if serials[serial] = true; unit >= 16 {
			t.Errorf("disk %s has unit %d, though lower ones are free", serial, unit)
		}
	}
	if len(serials) != 16 {
		t.Errorf("the machine has %v", there)
	}
}
