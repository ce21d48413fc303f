package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nanosOnly leaves out a test of the guest "nanos" where no kernel of it is at
// hand: UNI_NANOS_DIR names the directory with boot.img and kernel.img.
func nanosOnly(t *testing.T) {
	t.Helper()
	uniOnly(t)
	dir := os.Getenv("UNI_NANOS_DIR")
	if dir == "" {
		t.Skip("UNI_NANOS_DIR names no Nanos kernel")
	}
	for _, name := range []string{"boot.img", "kernel.img"} {
		if !exists(filepath.Join(dir, name)) {
			t.Fatalf("UNI_NANOS_DIR=%s holds no %s", dir, name)
		}
	}
}

// nanosSettings have nanos boot on a type of machine.
func nanosSettings(machine string) settings {
	return settings{
		"guest":         `"nanos"`,
		"nanos.kernel":  fmt.Sprintf("%q", os.Getenv("UNI_NANOS_DIR")),
		"nanos.machine": fmt.Sprintf("%q", machine),
	}
}

// onNanos is on, with nanos as the guest that boots, on microvm at the size that
// tests have.
func onNanos(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	nanosOnly(t)
	on(t, func(t *testing.T, h *host) {
		h.with(t, nanosSettings("auto"))
		test(t, h)
	})
}

// onNewestNanos is onNewest with nanos, on a type of machine.
func onNewestNanos(t *testing.T, machine string, test func(*testing.T, *host)) {
	t.Helper()
	nanosOnly(t)
	onNewest(t, func(t *testing.T, h *host) {
		h.with(t, nanosSettings(machine))
		test(t, h)
	})
}

// onMachines is onNanos, and once more on q35.
func onMachines(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	onNanos(t, test)
	t.Run("q35", func(t *testing.T) { onNewestNanos(t, "q35", test) })
}

func TestNanosProgram(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		got := h.run(t, container{flags: []string{"--env", "A=b 'c\" $d", "--cwd", "/tmp"}}, "sh", "-c",
			`echo "$A"; pwd; echo written >f; read x <f; echo "$x"; read h </etc/passwd; echo "$h"`)
		if want := "b 'c\" $d\n/tmp\nwritten\nroot:x:0:0:root:/root:/bin/sh\n"; got.Stdout != want || got.Code != 0 {
			t.Errorf("got %+v, want %q", got, want)
		}
	})
}

func TestNanosImages(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		if got := h.run(t, container{image: hello}); got.Code != 0 || !strings.Contains(got.Stdout, "hello") {
			t.Errorf("Go: %+v", got)
		}
		got := h.run(t, container{image: python}, "python3", "-c", "import json, sys; print(json.dumps({'a': 6 * 7})); sys.exit(3)")
		if got.Code != 3 || got.Stdout != "{\"a\": 42}\n" {
			t.Errorf("Python: %+v", got)
		}
	})
}

func TestNanosRefuses(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		for name, tt := range map[string]struct {
			c       container
			command []string
			want    string
		}{
			"directory": {container{flags: []string{"--mount", "type=bind,src=" + t.TempDir() + ",dst=/mnt,options=rbind"}}, []string{"sh"}, "cannot write to the host's directory"},
			"missing":   {container{}, []string{"no-such-program"}, "executable file not found in $PATH"},
			"no ELF":    {container{}, []string{"/etc/noformat"}, "exec format error"},
		} {
			if got := h.run(t, tt.c, tt.command...); got.Code == 0 || !strings.Contains(got.Stderr, tt.want) {
				t.Errorf("%s: %+v", name, got)
			}
			h.ctr(t, "container", "rm", "c1")
		}
	})
}

// Ten containers share one disk and have each a name, an exit status and files
// of its own.
func TestNanosTenOfOneImage(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		type result struct {
			n    int
			code int
			out  string
			errs string
		}
		results := make(chan result)
		begun := time.Now()
		for n := range 10 {
			go func() {
				file := filepath.Join(t.TempDir(), "f")
				text := fmt.Sprintf("container %d\n", n)
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Error(err)
				}
				got := h.run(t, container{id: fmt.Sprintf("c%d", n),
					flags: []string{"--mount", "type=bind,src=" + file + ",dst=/etc/mine,options=rbind:ro"}},
					"sh", "-c", fmt.Sprintf("read x </etc/mine; echo $x; exit %d", n))
				results <- result{n, got.Code, got.Stdout, got.Stderr}
			}()
		}
		for range 10 {
			r := <-results
			if want := fmt.Sprintf("container %d\n", r.n); r.code != r.n || r.out != want {
				t.Errorf("container %d: status %d, output %q, error %q", r.n, r.code, r.out, r.errs)
			}
		}
		t.Logf("ten containers in %v", time.Since(begun))
	})
}

// server is a program for python that serves the root on port 80.
const server = "import http.server, socketserver; socketserver.TCPServer(('', 80), http.server.SimpleHTTPRequestHandler).serve_forever()"

func TestNanosNetwork(t *testing.T) {
	onMachines(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1`)
		h.detach(t, container{image: python, flags: join(inside)}, "python3", "-c", server)
		outside.expect(t, "busybox wget -q -O - http://10.0.0.2/", `<a href="usr/"`)
		if code := h.remove(t, "c1"); code != 137 {
			t.Errorf("status %d", code)
		}
	})
}

// A container outlives containerd, and its exit status is not lost.
func TestNanosRestart(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		h.detach(t, container{image: python}, "python3", "-c", "import time; time.sleep(1000)")
		if err := h.Restart(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if got := h.ctr(t, "task", "kill", "c1"); got.Code != 0 {
			t.Errorf("SIGTERM: %+v", got)
		}
		// The kernel reports death by a signal as the bare number.
		if code := h.reap(t, "c1"); code != 15 {
			t.Errorf("status %d", code)
		}
	})
}
