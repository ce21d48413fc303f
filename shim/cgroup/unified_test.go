package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	stats "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mountedUnified returns a real tree of version 2 and its controllers. A host
// that uses version 1 often has one too, with few or no controllers.
func mountedUnified(t *testing.T) (u unified, controllers []string) {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("needs root: set UNI_QEMU_TESTS=1")
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) == 0 {
		t.Skip("no cgroup2 file system is mounted")
	}
	u.root = mounts[0].Mountpoint
	text, err := os.ReadFile(filepath.Join(u.root, "cgroup.controllers"))
	if err != nil {
		t.Fatal(err)
	}
	return u, strings.Fields(string(text))
}

// TestUnified lives a container's life in a real tree: limits where the kernel
// has the controllers, a process that is found, counted, killed and gone.
func TestUnified(t *testing.T) {
	u, controllers := mountedUnified(t)
	t.Logf("controllers: %v", controllers)
	path := fmt.Sprintf("/uni-test-%d/c1", os.Getpid())
	record := filepath.Join(t.TempDir(), "cgroup")
	t.Cleanup(func() { _ = os.Remove(u.dir(filepath.Dir(path))) }) // the parent is a client's, and stays
	quota, period := int64(50_000), uint64(100_000)
	g, err := create(u, record, Place{Path: path}, Limits{MemoryBytes: 64 << 20, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}})
	if err != nil {
		t.Fatal(err)
	}
	for controller, want := range map[string][2]string{"memory": {"memory.max", "67108864"}, "cpu": {"cpu.max", "50000 100000"}} {
		if !slices.Contains(controllers, controller) {
			continue
		}
		got, err := os.ReadFile(filepath.Join(u.dir(path), want[0]))
		if err != nil || strings.TrimSpace(string(got)) != want[1] {
			t.Errorf("%s is %q (%v), want %s", want[0], got, err, want[1])
		}
	}

	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if err := g.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	if err != nil || !strings.Contains(string(line), "0::"+path+"\n") {
		t.Errorf("the process is in %q (%v), want %s", line, err, path)
	}
	m, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.(*stats.Metrics); !ok {
		t.Errorf("metrics are a %T", m)
	}
	if n := g.OOMKills(); n != 0 {
		t.Errorf("%d killed for lack of memory", n)
	}

	_ = remove(u, record) // an error until the process that this kills is waited for
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want to be killed", err)
	}
	if err := remove(u, record); err != nil {
		t.Error(err)
	}
	if u.exists(path) {
		t.Error("the cgroup is left")
	}
	if err := remove(u, record); err != nil {
		t.Errorf("again: %v", err)
	}
}

// TestUnifiedUpdates changes a limit of CPU while processes run, where the
// kernel has the controller; elsewhere it says what is missing.
func TestUnifiedUpdates(t *testing.T) {
	u, controllers := mountedUnified(t)
	path := fmt.Sprintf("/uni-test-%d-update", os.Getpid())
	record := filepath.Join(t.TempDir(), "cgroup")
	g, err := create(u, record, Place{Path: path}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(u, record); err != nil {
			t.Error(err)
		}
	})
	quota := int64(20_000)
	err = g.Update(&specs.LinuxCPU{Quota: &quota})
	if !slices.Contains(controllers, "cpu") {
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("without the controller: %v", err)
		}
		return
	}
	if got, readErr := os.ReadFile(filepath.Join(u.dir(path), "cpu.max")); err != nil || strings.TrimSpace(string(got)) != "20000 100000" {
		t.Errorf("cpu.max is %q; %v, %v", got, err, readErr)
	}
}
