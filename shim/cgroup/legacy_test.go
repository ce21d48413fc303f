package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestJoinLegacy joins a cgroup that somebody made for controllers that limit
// nothing of ours.
func TestJoinLegacy(t *testing.T) {
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("needs root: set UNI_QEMU_TESTS=1")
	}
	if cgroups.Mode() == cgroups.Unified {
		t.Skip("the host uses cgroup version 2")
	}
	path := fmt.Sprintf("/uni-test-%d-shims", os.Getpid())
	if err := join(legacy{}, path, os.Getpid()); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a cgroup that is not there: %v", err)
	}
	all, err := cgroup1.Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Name() != cgroup1.Devices && c.Name() != cgroup1.Freezer {
			continue
		}
		t.Run(string(c.Name()), func(t *testing.T) {
			theirs, err := cgroup1.New(cgroup1.StaticPath(path), &specs.LinuxResources{}, only(c))
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sleep", "600")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if err := theirs.Delete(); err != nil {
					t.Error(err)
				}
			})
			if err := join(legacy{}, path, cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if in, err := theirs.Processes(c.Name(), false); err != nil || len(in) != 1 || in[0].Pid != cmd.Process.Pid {
				t.Errorf("in the cgroup: %v, %v", in, err)
			}
		})
	}
}
