package watch

import (
	"errors"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCheck(t *testing.T) {
	no, invalid := unikernel.ErrNotImplemented, unikernel.ErrInvalid
	for name, tt := range map[string]struct {
		change func(*specs.Spec)
		want   error
	}{
		"good":             {func(*specs.Spec) {}, nil},
		"no process":       {func(s *specs.Spec) { s.Process = nil }, invalid},
		"no linux":         {func(s *specs.Spec) { s.Linux = nil }, invalid},
		"relative mount":   {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "x"}} }, invalid},
		"terminal":         {func(s *specs.Spec) { s.Process.Terminal = true }, no},
		"hook":             {func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: make([]specs.Hook, 1)} }, no},
		"mapped users":     {func(s *specs.Spec) { s.Linux.UIDMappings = make([]specs.LinuxIDMapping, 1) }, no},
		"host's processes": {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] }, no},
		"others' IPC":      {func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/proc/1/ns/ipc" }, no},
	} {
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}}}
		tt.change(s)
		if err := Check(s, testGuest.Refuse); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Check(nil, testGuest.Refuse); !errors.Is(err, invalid) {
		t.Errorf("no specification: %v", err)
	}
}
