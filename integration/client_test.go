package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestClientKilled: a client that dies at whatever moment of a creation or a start
// leaves what is seen and can be removed, and nothing else.
func TestClientKilled(t *testing.T) {
	uniOnly(t)
	const lives = 8 // each of three versions; make soak has many
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	on(t, func(t *testing.T, h *host) {
		for i := range lives {
			id := fmt.Sprintf("k%d", i)
			cmd := h.Command(t.Context(), container{id: id, keep: true, flags: []string{"-d"}}.args([]string{"sleep", "1000"})...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// A creation takes a fraction of a second, on a busy host more.
			span := []int{400, 1500}[i%2]
			time.Sleep(time.Duration(random.IntN(span)) * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // whether it succeeded depends on the moment
			// What there is of it depends on that, too: each may fail.
			h.ctr(t, "tasks", "rm", "-f", id)
			h.ctr(t, "containers", "rm", id)
		}
		eventually(t, "no shim is left", func() bool { return len(h.shims(t)) == 0 })
		h.RemoveAll(t.Context()) // what appeared after its removal, in containerd's own list
	})
}

// TestShimIsToldToEnd: it takes its machine and all its files with it.
func TestShimIsToldToEnd(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		for _, pid := range h.shims(t) {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "shim and machine have ended", func() bool { return len(h.shims(t))+len(h.find(t, "qemu-system")) == 0 })
		h.RemoveAll(t.Context())
	})
}

// TestHypervisorStopped: a guest that does not answer keeps nobody waiting. What it
// is told it does when it goes on, and SIGKILL ends it at once.
func TestHypervisorStopped(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		r := h.start(t, container{}, "sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
		r.expect(t, "ready")
		qemu := h.find(t, "qemu-system")
		stop := func(sig syscall.Signal) {
			for _, pid := range qemu {
				if err := syscall.Kill(pid, sig); err != nil {
					t.Fatal(err)
				}
			}
		}
		stop(syscall.SIGSTOP)
		h.ok(t, "tasks", "kill", "-s", "TERM", "c1")
		stop(syscall.SIGCONT)
		if code := r.finish(); code != 7 {
			t.Errorf("status %d of a container that was told to end while it was stopped, want 7", code)
		}

		h.detach(t, container{}, "sleep", "1000")
		qemu = h.find(t, "qemu-system")
		stop(syscall.SIGSTOP)
		if got := h.ctr(t, "tasks", "exec", "--exec-id", "x", "c1", "true"); got.Code == 0 || !strings.Contains(got.Stderr, "did not answer") {
			t.Errorf("exec: %+v", got)
		}
		if got := h.ctr(t, "tasks", "pause", "c1"); got.Code == 0 || !strings.Contains(got.Stderr, "did not answer") {
			t.Errorf("pause: %+v", got)
		}
		h.ok(t, "tasks", "kill", "-s", "TERM", "c1")
		h.ok(t, "tasks", "kill", "-s", "KILL", "c1")
		if code := h.reap(t, "c1"); code != 137 {
			t.Errorf("status %d of a container that was killed while it was stopped, want 137", code)
		}
	})
}
