package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/task"
	"containerd-shim-uni/unikernel"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestVersionsAreTheSameOnTheWire is what serving both versions with one set of
// messages rests on.
func TestVersionsAreTheSameOnTheWire(t *testing.T) {
	v2 := taskapi2.File_runtime_task_v2_shim_proto
	v3 := taskapi.File_runtime_task_v3_shim_proto
	s2, s3 := v2.Services().Get(0), v3.Services().Get(0)
	if string(s2.FullName()) != taskV2 || string(s3.FullName()) != taskV3 {
		t.Fatalf("services %s and %s", s2.FullName(), s3.FullName())
	}
	if s2.Methods().Len() != s3.Methods().Len() {
		t.Fatal("the versions have different methods")
	}
	for i := range s3.Methods().Len() {
		m3 := s3.Methods().Get(i)
		m2 := s2.Methods().ByName(m3.Name())
		if m2 == nil {
			t.Errorf("version 2 has no %s", m3.Name())
			continue
		}
		same(t, m2.Input(), m3.Input())
		same(t, m2.Output(), m3.Output())
	}
}

// TestSandboxMethods: all that the sandbox service has is served, under its name.
func TestSandboxMethods(t *testing.T) {
	service := sandboxapi.File_runtime_sandbox_v1_sandbox_proto.Services().Get(0)
	if string(service.FullName()) != sandboxV1 {
		t.Errorf("service %s", service.FullName())
	}
	served := NewSandboxes(nil).methods()
	for i := range service.Methods().Len() {
		name := string(service.Methods().Get(i).Name())
		if served[name] == nil {
			t.Errorf("no %s", name)
		}
		delete(served, name)
	}
	for name := range served {
		t.Errorf("%s is no method", name)
	}
}

func same(t *testing.T, a, b protoreflect.MessageDescriptor) {
	t.Helper()
	if a.Fields().Len() != b.Fields().Len() {
		t.Errorf("%s and %s have different fields", a.FullName(), b.FullName())
	}
	for i := range b.Fields().Len() {
		fb := b.Fields().Get(i)
		fa := a.Fields().ByNumber(fb.Number())
		if fa == nil || fa.Name() != fb.Name() || fa.Kind() != fb.Kind() || fa.Cardinality() != fb.Cardinality() {
			t.Errorf("field %s differs between versions", fb.FullName())
			continue
		}
		if fb.IsMap() {
			same(t, fa.Message(), fb.Message()) // a type of each version's own
			continue
		}
		if fb.Message() != nil && fa.Message().FullName() != fb.Message().FullName() {
			t.Errorf("field %s has another type in version 2", fb.FullName())
		}
	}
}

// TestEveryMethodIsServed compares what is registered with the service's
// descriptor.
func TestEveryMethodIsServed(t *testing.T) {
	var _ taskapi.TTRPCTaskService = (*Service)(nil)
	methods := (&Service{}).methods()
	all := taskapi.File_runtime_task_v3_shim_proto.Services().Get(0).Methods()
	if len(methods) != all.Len() {
		t.Errorf("%d methods are served, the service has %d", len(methods), all.Len())
	}
	for i := range all.Len() {
		if methods[string(all.Get(i).Name())] == nil {
			t.Errorf("%s is not served", all.Get(i).Name())
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("x"), codes.Unknown},
		{unikernel.ErrNotImplemented, codes.Unimplemented},
		{unikernel.ErrInvalid, codes.InvalidArgument},
		{config.ErrInvalid, codes.InvalidArgument},
		{unikernel.ErrNotFound, codes.NotFound},
		{unikernel.ErrUnavailable, codes.Unavailable},
		{errdefs.ErrNotFound, codes.NotFound},
		{errdefs.ErrAlreadyExists, codes.AlreadyExists},
		{errdefs.ErrFailedPrecondition, codes.FailedPrecondition},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
	} {
		wrapped := fmt.Errorf("do it: %w", test.err)
		got := toGRPC(wrapped)
		if status.Code(got) != test.want {
			t.Errorf("%v: code %s, want %s", test.err, status.Code(got), test.want)
		}
		if s, _ := status.FromError(got); s.Message() != wrapped.Error() {
			t.Errorf("%v: message %q", test.err, s.Message())
		}
	}
	twice := fmt.Errorf("mount %q: %w: not absolute", "x", unikernel.ErrInvalid)
	if got := errgrpc.ToNative(toGRPC(twice)).Error(); got != `mount "x": not absolute: invalid argument` && got != `mount "x": not absolute` {
		t.Errorf("a client reads %q", got)
	}
	if toGRPC(nil) != nil {
		t.Error("no error became one")
	}
}

func TestEveryStateHasAName(t *testing.T) {
	for _, s := range task.States {
		if _, ok := states[s]; !ok {
			t.Errorf("state %s has no name at containerd", s)
		}
	}
}

func TestRefusals(t *testing.T) {
	s := New(task.NewService("ns", nil, nil, nil))
	_, err := s.Checkpoint(t.Context(), &taskapi.CheckpointTaskRequest{ID: "c"})
	if !errors.Is(err, unikernel.ErrNotImplemented) {
		t.Errorf("checkpoint: %v", err)
	}
	for name, spec := range map[string]*anypb.Any{"none": nil, "bad": {Value: []byte("{")}} {
		if _, err := s.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c", Spec: spec}); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("exec, process %s: %v", name, err)
		}
	}
	for name, call := range map[string]func() error{
		"state":  func() error { _, err := s.State(t.Context(), &taskapi.StateRequest{ID: "c"}); return err },
		"pids":   func() error { _, err := s.Pids(t.Context(), &taskapi.PidsRequest{ID: "c"}); return err },
		"pause":  func() error { _, err := s.Pause(t.Context(), &taskapi.PauseRequest{ID: "c"}); return err },
		"resume": func() error { _, err := s.Resume(t.Context(), &taskapi.ResumeRequest{ID: "c"}); return err },
		"stats":  func() error { _, err := s.Stats(t.Context(), &taskapi.StatsRequest{ID: "c"}); return err },
		"update": func() error { _, err := s.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: "c"}); return err },
		"kill":   func() error { _, err := s.Kill(t.Context(), &taskapi.KillRequest{ID: "c"}); return err },
		"wait":   func() error { _, err := s.Wait(t.Context(), &taskapi.WaitRequest{ID: "c"}); return err },
	} {
		if err := call(); !errdefs.IsNotFound(err) {
			t.Errorf("%s of no container: %v", name, err)
		}
	}
	if c, err := s.Connect(t.Context(), &taskapi.ConnectRequest{ID: "c"}); err != nil || c.ShimPid == 0 || c.TaskPid != 0 {
		t.Errorf("connect: %v, %v", c, err)
	}
}
