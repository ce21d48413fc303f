package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/integration/image"
)

func TestNanosExitStatus(t *testing.T) {
	onMachines(t, func(t *testing.T, h *host) {
		for _, code := range []int{0, 1, 7, 42, 126, 127, 128, 200, 255} {
			got := h.run(t, container{}, "sh", "-c", fmt.Sprintf("echo it is %d; exit %d", code, code))
			if want := fmt.Sprintf("it is %d\n", code); got.Code != code || got.Stdout != want {
				t.Errorf("exit %d came through as %+v", code, got)
			}
		}
	})
}

// spin is a program that says "ready" and goes on until a signal ends it.
const spin = "echo ready; while :; do :; done"

func TestNanosSignals(t *testing.T) {
	onMachines(t, func(t *testing.T, h *host) {
		for name, tt := range map[string]struct {
			program string
			end     func(*testing.T)
			code    int
		}{
			"SIGTERM, handled":     {"trap 'exit 9' TERM; " + spin, func(t *testing.T) { h.ok(t, "task", "kill", "c1") }, 9},
			"SIGTERM, exit with 0": {"trap 'exit 0' TERM; " + spin, func(t *testing.T) { h.ok(t, "task", "kill", "c1") }, 0},
			// The kernel reports death by a signal as the bare number.
			"SIGTERM": {spin, func(t *testing.T) { h.ok(t, "task", "kill", "c1") }, 15},
			// The way to end that it has is SIGTERM.
			"SIGQUIT":        {"trap 'exit 9' TERM; " + spin, func(t *testing.T) { h.ok(t, "task", "kill", "-s", "SIGQUIT", "c1") }, 9},
			"SIGINT":         {"trap 'exit 9' TERM; " + spin, func(t *testing.T) { h.ok(t, "task", "kill", "-s", "SIGINT", "c1") }, 9},
			"SIGKILL":        {spin, func(t *testing.T) { h.ok(t, "task", "kill", "-s", "SIGKILL", "c1") }, 137},
			"QEMU is killed": {spin, func(t *testing.T) { kill(t, h.find(t, "qemu-system")) }, 137},
		} {
			r := h.start(t, container{}, "sh", "-c", tt.program)
			r.expect(t, "ready")
			tt.end(t)
			if code := r.finish(); code != tt.code {
				t.Errorf("%s: status %d, want %d", name, code, tt.code)
			}
		}
	})
}

// The kernel gives a program 30 seconds after the power button.
func TestNanosIgnoresSIGTERM(t *testing.T) {
	onNewestNanos(t, "auto", func(t *testing.T, h *host) {
		r := h.start(t, container{}, "sh", "-c", "trap '' TERM; "+spin)
		r.expect(t, "ready")
		h.ok(t, "task", "kill", "c1")
		if code := r.finish(); code != 0 {
			t.Errorf("status %d", code)
		}
	})
}

func TestNanosRefusesWhileItRuns(t *testing.T) {
	onNewestNanos(t, "auto", func(t *testing.T, h *host) {
		h.detach(t, container{}, "sh", "-c", spin)
		for _, args := range [][]string{
			{"task", "kill", "-s", "SIGSTOP", "c1"}, {"task", "exec", "--exec-id", "e", "c1", "true"},
		} {
			if got := h.ctr(t, args...); got.Code == 0 || !strings.Contains(got.Stderr, `the guest "linux"`) {
				t.Errorf("%v: %+v", args, got)
			}
		}
		h.remove(t, "c1")
	})
}

// The ways in which a program ends other than by exit.
func TestNanosEnds(t *testing.T) {
	onMachines(t, func(t *testing.T, h *host) {
		for name, tt := range map[string]struct {
			flags   []string
			program string
			code    int
		}{
			"SIGSEGV":        {nil, "import ctypes; ctypes.string_at(0)", 11},
			"abort":          {nil, "import os; os.abort()", 6},
			"out of memory":  {[]string{"--memory-limit", "67108864"}, "x = bytearray(1 << 30)", 7},
			"read-only root": {[]string{"--read-only"}, "open('/f', 'w')", 1},
		} {
			if got := h.run(t, container{image: python, flags: tt.flags}, "python3", "-c", tt.program); got.Code != tt.code {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
}

// A kernel that fails may leave no record, as it leaves none of an exit with 0.
func TestNanosKernelFails(t *testing.T) {
	for _, machine := range []string{"microvm", "q35"} {
		onNewestNanos(t, machine, func(t *testing.T, h *host) { h.failingKernels(t, machine) })
	}
}

func (h *host) failingKernels(t *testing.T, machine string) {
	t.Helper()
	dir, loader := filepath.Join(h.Dir, "fake-nanos"), filepath.Join(os.Getenv("UNI_NANOS_DIR"), "boot.img")
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755), os.Symlink(loader, filepath.Join(dir, "boot.img"))); err != nil {
		t.Fatal(err)
	}
	h.with(t, settings{"guest": `"nanos"`, "nanos.kernel": fmt.Sprintf("%q", dir), "nanos.machine": fmt.Sprintf("%q", machine)})
	for status, want := range map[byte]int{0: 0, 0x7e: 255, 0x7f: 255} {
		if err := os.WriteFile(filepath.Join(dir, "kernel.img"), image.EndingKernel(status), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := h.run(t, container{}, "sh", "-c", "exit 0"); got.Code != want {
			t.Errorf("a kernel that ends with %#x: %+v, want %d", status, got, want)
		}
	}
}
