package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/shim/task"
	"containerd-shim-uni/unikernel"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Service is the task service of one shim.
type Service struct{ tasks *task.Service }

// New returns a service for a shim's containers.
func New(tasks *task.Service) *Service { return &Service{tasks: tasks} }

var empty = &emptypb.Empty{}

// Create makes a container; its machine exists and is paused afterwards.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	pid, err := s.tasks.Create(ctx, task.CreateRequest{
		ID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Options: r.Options,
		IO: stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	if err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(pid)}, nil
}

// Start starts a container or an exec process.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	pid, err := s.tasks.Start(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

// Delete frees a container or forgets an exec process.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	st, err := s.tasks.Delete(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{Pid: uint32(st.Pid), ExitStatus: st.Exit.Status, ExitedAt: exitedAt(st.Exit)}, nil
}

// states are the names containerd has for states.
var states = map[task.State]tasktypes.Status{
	task.Created:  tasktypes.Status_CREATED,
	task.Starting: tasktypes.Status_CREATED,
	task.Running:  tasktypes.Status_RUNNING,
	task.Pausing:  tasktypes.Status_PAUSING,
	task.Paused:   tasktypes.Status_PAUSED,
	task.Resuming: tasktypes.Status_PAUSED,
	task.Stopped:  tasktypes.Status_STOPPED,
	task.Deleting: tasktypes.Status_STOPPED,
}

// State returns the state of a process.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	st, err := s.tasks.Status(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.StateResponse{
		ID: st.ID, Bundle: st.Bundle, Pid: uint32(st.Pid), Status: states[st.State],
		Stdin: st.IO.Stdin, Stdout: st.IO.Stdout, Stderr: st.IO.Stderr, Terminal: st.IO.Terminal,
		ExitStatus: st.Exit.Status, ExitedAt: exitedAt(st.Exit), ExecID: r.ExecID,
	}, nil
}

// exitedAt is the zero time of containerd for a process that has not exited.
func exitedAt(e unikernel.Exit) *timestamppb.Timestamp { return timestamppb.New(e.At) }

// Pids returns the machine's process, and each exec process under the same
// number with its id: what runs in the guest has no number here.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.tasks.Container(r.ID)
	if err != nil {
		return nil, err
	}
	pid, execs := c.Pids()
	all := []*tasktypes.ProcessInfo{{Pid: uint32(pid)}}
	for _, id := range execs {
		info, err := toAny(&options.ProcessDetails{ExecID: id})
		if err != nil {
			return nil, err
		}
		all = append(all, &tasktypes.ProcessInfo{Pid: uint32(pid), Info: info})
	}
	return &taskapi.PidsResponse{Processes: all}, nil
}

// toAny packs a message under its bare name, as containerd's typeurl does.
func toAny(m proto.Message) (*anypb.Any, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data}, nil
}

// Pause stops a container's machine.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, err := s.tasks.Container(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Pause(ctx)
}

// Resume lets a container's machine go on.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, err := s.tasks.Container(r.ID)
	if err != nil {
		return nil, err
	}
	return empty, c.Resume(ctx)
}

// Checkpoint is not implemented.
func (s *Service) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint container %s: %w: a checkpoint holds processes of the host's kernel, and a machine has none; pause the container instead",
		r.ID, unikernel.ErrNotImplemented)
}

// Kill sends a signal to a process.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	return empty, s.tasks.Kill(ctx, r.ID, r.ExecID, syscall.Signal(r.Signal), r.All)
}

// Exec adds a process to a container.
func (s *Service) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	var spec specs.Process
	if err := fromJSON(r.Spec, &spec); err != nil {
		return nil, fmt.Errorf("process of exec %s: %w", r.ExecID, err)
	}
	spec.Terminal = r.Terminal
	return empty, s.tasks.Exec(r.ID, r.ExecID, &spec, stdio.Config{
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal,
	})
}

// fromJSON reads one of the specification's types, which containerd sends as
// JSON (typeurl).
func fromJSON(a *anypb.Any, into any) error {
	if a == nil {
		return fmt.Errorf("%w: nothing was sent", unikernel.ErrInvalid)
	}
	if err := json.Unmarshal(a.Value, into); err != nil {
		return fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	return nil
}

// ResizePty sets the size of a terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return empty, s.tasks.ResizePty(ctx, r.ID, r.ExecID, uint16(r.Width), uint16(r.Height))
}

// CloseIO ends a process's input.
func (s *Service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	if !r.Stdin {
		return empty, nil
	}
	return empty, s.tasks.CloseStdin(r.ID, r.ExecID)
}

// Update changes a container's limits.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.tasks.Container(r.ID)
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := fromJSON(r.Resources, &res); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	return empty, c.Update(ctx, &res)
}

// Wait returns when a process has exited.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	exit, err := s.tasks.Wait(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: exit.Status, ExitedAt: exitedAt(exit)}, nil
}

// Stats returns what a container uses.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.tasks.Container(r.ID)
	if err != nil {
		return nil, err
	}
	metrics, err := c.Stats(ctx)
	if err != nil {
		return nil, err
	}
	packed, err := toAny(metrics)
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: packed}, nil
}

// Connect returns the shim's process and the container's.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.tasks.Container(r.ID); err == nil {
		resp.TaskPid = uint32(c.Status().Pid)
	}
	return resp, nil
}

// Shutdown ends the shim, unless it still has containers.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.tasks.Shutdown()
	return empty, nil
}
