package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// operate runs the command uni with a host's configuration.
func (h *host) operate(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(world.out, "bin/uni"), append([]string{"--config", h.config}, args...)...)
	out, err := cmd.CombinedOutput()
	t.Logf("uni %s: %v\n%s", strings.Join(args, " "), err, out)
	return string(out), err
}

// A kernel that is installed is booted without a word in the configuration, and
// a container that runs does not mind what becomes of its kernel.
func TestNanosInstalledKernel(t *testing.T) {
	nanosOnly(t)
	on(t, func(t *testing.T, h *host) {
		uni := func(want string, args ...string) {
			t.Helper()
			if out, err := h.operate(t, append([]string{"kernel"}, args...)...); err != nil || !strings.Contains(out, want) {
				t.Fatalf("uni kernel %s: %v, want %q", strings.Join(args, " "), err, want)
			}
		}
		dir := os.Getenv("UNI_NANOS_DIR")
		archive := filepath.Join(t.TempDir(), "nanos-release-linux-9.9.9.tar.gz")
		if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-czf", archive, "boot.img", "kernel.img").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
		h.with(t, settings{"guest": `"nanos"`})
		if got := h.run(t, container{}, "sh"); got.Code == 0 || !strings.Contains(got.Stderr, "uni kernel install nanos") {
			t.Errorf("without a kernel: %+v", got)
		}
		h.ctr(t, "container", "rm", "c1")

		uni("containers boot it", "install", "nanos", "--from", dir, "--version", "first")
		if got := h.run(t, container{}, "sh", "-c", "echo hello; exit 7"); got.Code != 7 || got.Stdout != "hello\n" {
			t.Errorf("%+v", got)
		}
		h.detach(t, container{image: python}, "python3", "-c", "import time; time.sleep(1000)")
		uni("nanos 9.9.9", "install", "nanos", "--from", archive)
		uni("", "rm", "first")
		uni("9.9.9: ok", "verify")
		if got := h.run(t, container{id: "c2"}, "sh", "-c", "exit 3"); got.Code != 3 {
			t.Errorf("with another kernel: %+v", got)
		}
		if got := h.ctr(t, "task", "kill", "c1"); got.Code != 0 {
			t.Errorf("SIGTERM to the one whose kernel is gone: %+v", got)
		}
		if code := h.reap(t, "c1"); code != 15 {
			t.Errorf("its status is %d", code)
		}
		uni("", "rm", "9.9.9")
		if left, err := filepath.Glob(filepath.Join(h.data, "kernels/nanos/[^l]*")); len(left) > 0 || err != nil {
			t.Errorf("left %q, %v", left, err)
		}
	})
}
