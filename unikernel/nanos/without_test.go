package nanos

import (
	"errors"
	"slices"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestWithout(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*specs.Spec)
		want   []string
	}{
		"nothing": {func(*specs.Spec) {}, nil},
		"name in a file": {func(s *specs.Spec) {
			s.Hostname = "h"
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hostname", Type: "bind", Source: "/h"})
		}, nil},
		"user and name": {func(s *specs.Spec) { s.Process.User.UID, s.Hostname = 1000, "h" }, []string{"user 1000:0", "host name h"}},
	} {
		a := app()
		tt.change(a.Spec)
		plan, err := New(Config{Kernel: "/k", Machine: MachineAuto}).Plan(a, size)
		if err != nil || !slices.Equal(plan.Without, tt.want) {
			t.Errorf("%s: %q, %v; want %q", name, plan.Without, err, tt.want)
		}
	}
}

func TestDevices(t *testing.T) {
	for path, want := range map[string]error{"/dev/null": nil, "/dev/fuse": unikernel.ErrNotImplemented} {
		a := app()
		a.Spec.Linux.Devices = []specs.LinuxDevice{{Path: path, Type: "c"}}
		if _, err := New(Config{Kernel: "/k", Machine: MachineAuto}).Plan(a, size); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}
