package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const shim = "containerd-shim-uni-v1"

func TestHypervisorKilled(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		r := h.start(t, container{}, "sh", "-c", "echo ready; sleep 1000")
		r.expect(t, "ready")
		kill(t, h.find(t, "qemu-system"))
		if code := r.finish(); code != 137 {
			t.Errorf("status %d, want 137; stderr %q", code, r.errs.String())
		}
	})
}

// A client that waits is told that the container is gone, and containerd
// cleans up through "shim delete".
func TestShimKilledWhileTheContainerRuns(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		r := h.start(t, container{}, "sh", "-c", "echo ready; sleep 1000")
		r.expect(t, "ready")
		kill(t, h.shims(t))
		if code := r.finish(); code == 0 {
			t.Error("ctr run reports success")
		}
		h.RemoveAll(t.Context())
	})
}

// The moments are counted from the first sight of the shim; with emulation a
// container is created in about a second and runs after two.
func TestShimKilledWhileTheContainerIsCreatedOrStarted(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		for _, moment := range []int{0, 20, 50, 100, 200, 350, 500, 750, 1000, 1500} {
			c := h.checker()
			cmd := h.Command(t.Context(), container{keep: true, flags: []string{"-d"}}.args([]string{"sleep", "1000"})...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the shim is there", func() bool { return len(h.shims(t)) > 0 })
			time.Sleep(time.Duration(moment) * time.Millisecond)
			killAny(t, h.shims(t))
			_ = cmd.Wait() // whether it succeeded depends on the moment
			h.RemoveAll(t.Context())
			if moment < 100 {
				// With start killed, too, nobody knows of the shim's socket: the next of
				// that name takes its place.
				h.run(t, container{}, "true")
			}
			nothingLeft(t, c)
			if t.Failed() {
				t.Fatalf("killed %d ms after the shim appeared", moment)
			}
		}
	})
}

func TestShimKilledWhileTheContainerIsDeleted(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		for _, moment := range []int{0, 5, 10, 20, 40, 80} {
			c := h.checker()
			h.detach(t, container{}, "true")
			h.await(t, "c1", "STOPPED")
			cmd := h.Command(t.Context(), "tasks", "delete", "c1")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(moment) * time.Millisecond)
			killAny(t, h.shims(t))
			_ = cmd.Wait() // whether it succeeded depends on the moment
			h.RemoveAll(t.Context())
			nothingLeft(t, c)
			if t.Failed() {
				t.Fatalf("killed %d ms after the delete began", moment)
			}
		}
	})
}

// shims returns the processes that serve tasks, not those containerd calls to
// start one and to delete what one left: containerd asks nobody to clean up
// after a start that was killed.
func (h *host) shims(t *testing.T) []int {
	return slices.DeleteFunc(h.find(t, shim), func(pid int) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		return err != nil || slices.Contains([]string{"start", "delete"}, args[len(args)-1])
	})
}

// find returns the processes of a host whose program has a name.
func (h *host) find(t *testing.T, name string) []int {
	t.Helper()
	var found []int
	for _, pid := range h.Processes() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		program, _, _ := strings.Cut(string(line), "\x00")
		if err == nil && strings.Contains(filepath.Base(program), name) {
			found = append(found, pid)
		}
	}
	return found
}

// kill kills processes, of which there is at least one.
func kill(t *testing.T, pids []int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("no process to kill")
	}
	killAny(t, pids)
}

// killAny kills the processes that are still there.
func killAny(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}
