package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/shim/cri"
	"containerd-shim-uni/shim/task"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sandboxes is the sandbox service of one shim: the other way to make a pod. Its own
// container is one of the task service's as with the first way, so all that follows is
// the same.
type Sandboxes struct {
	tasks *task.Service

	mu   sync.Mutex
	made map[string]pod
}

// pod is what is remembered of one that was made.
type pod struct {
	cri.Pod
	at time.Time
}

// NewSandboxes returns a service for a shim's pods.
func NewSandboxes(tasks *task.Service) *Sandboxes {
	return &Sandboxes{tasks: tasks, made: map[string]pod{}}
}

func (s *Sandboxes) pod(id string) (pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.made[id]
	if !ok {
		return pod{}, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return p, nil
}

// CreateSandbox makes the machine of a pod, paused. The mounts of a root file system, if
// there are any, are those of a program that does not run.
func (s *Sandboxes) CreateSandbox(ctx context.Context, r *sandboxapi.CreateSandboxRequest) (*sandboxapi.CreateSandboxResponse, error) {
	asked, err := cri.Read(r.Options)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", r.SandboxID, err)
	}
	host, err := cri.ThisHost()
	if err != nil {
		return nil, err
	}
	p := pod{cri.Translate(r.SandboxID, asked, r.NetnsPath, cri.Dir(r.BundlePath), host), time.Now()}
	if err := p.Write(r.BundlePath); err != nil {
		return nil, fmt.Errorf("create sandbox %s: %w", r.SandboxID, err)
	}
	if _, err := s.tasks.Create(ctx, task.CreateRequest{ID: r.SandboxID, Bundle: r.BundlePath}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made[r.SandboxID] = p
	return &sandboxapi.CreateSandboxResponse{}, nil
}

// StartSandbox boots it; containers can come when it returns.
func (s *Sandboxes) StartSandbox(ctx context.Context, r *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	p, err := s.pod(r.SandboxID)
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(p.Spec)
	if err != nil {
		return nil, err
	}
	pid, err := s.tasks.Start(ctx, r.SandboxID, "")
	if err != nil {
		return nil, err
	}
	return &sandboxapi.StartSandboxResponse{
		Pid: uint32(pid), CreatedAt: timestamppb.New(p.at), Spec: &anypb.Any{TypeUrl: specType, Value: spec},
	}, nil
}

// specType is the URL by which containerd knows the type (its pkg/oci and the client's
// init function, containerd/typeurl).
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// Platform is what containers of the pod are for.
func (s *Sandboxes) Platform(context.Context, *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
}

// StopSandbox ends the pod's containers, and then the machine; it returns when their
// exits are published. One that has ended is no error.
func (s *Sandboxes) StopSandbox(ctx context.Context, r *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	if r.TimeoutSecs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.TimeoutSecs)*time.Second)
		defer cancel()
	}
	if _, err := s.pod(r.SandboxID); err != nil {
		return nil, err
	}
	err := s.tasks.Kill(ctx, r.SandboxID, "", syscall.SIGKILL, true)
	if err == nil || errdefs.IsNotFound(err) { // it has been killed before, or ended
		_, err = s.tasks.Wait(ctx, r.SandboxID, "")
	}
	if err != nil {
		return nil, fmt.Errorf("stop sandbox %s: %w", r.SandboxID, err)
	}
	return &sandboxapi.StopSandboxResponse{}, nil
}

// WaitSandbox returns when the pod has ended: after all of its containers.
func (s *Sandboxes) WaitSandbox(ctx context.Context, r *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	exit, err := s.tasks.Wait(ctx, r.SandboxID, "")
	if err != nil {
		return nil, err
	}
	return &sandboxapi.WaitSandboxResponse{ExitStatus: exit.Status, ExitedAt: exitedAt(exit)}, nil
}

// SandboxStatus tells whether containers can come, in the words of the container runtime
// interface.
func (s *Sandboxes) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	p, err := s.pod(r.SandboxID)
	if err != nil {
		return nil, err
	}
	st, err := s.tasks.Status(r.SandboxID, "")
	if err != nil {
		return nil, err
	}
	state := criapi.PodSandboxState_SANDBOX_NOTREADY
	if st.State == task.Running {
		state = criapi.PodSandboxState_SANDBOX_READY
	}
	resp := &sandboxapi.SandboxStatusResponse{
		SandboxID: r.SandboxID, Pid: uint32(st.Pid), State: state.String(),
		CreatedAt: timestamppb.New(p.at), ExitedAt: exitedAt(st.Exit),
	}
	if r.Verbose {
		resp.Info, err = info(p, st)
	}
	return resp, err
}

// info is what "crictl inspectp" shows, in containerd's form
// (internal/cri/server/podsandbox/types of 2.4).
func info(p pod, st task.Status) (map[string]string, error) {
	text, err := json.Marshal(struct {
		Pid     int                      `json:"pid"`
		Status  string                   `json:"processStatus"`
		Config  *criapi.PodSandboxConfig `json:"config"`
		Runtime *specs.Spec              `json:"runtimeSpec"`
	}{st.Pid, st.State.String(), p.Config, p.Spec})
	return map[string]string{"info": string(text)}, err
}

// PingSandbox says whether the pod is there and has not ended.
func (s *Sandboxes) PingSandbox(_ context.Context, r *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	st, err := s.tasks.Status(r.SandboxID, "")
	if err != nil {
		return nil, err
	}
	if st.State == task.Stopped || st.State == task.Deleting {
		return nil, fmt.Errorf("sandbox %s has ended: %w", r.SandboxID, errdefs.ErrFailedPrecondition)
	}
	return &sandboxapi.PingResponse{}, nil
}

// ShutdownSandbox frees all that the pod has on the host, ends it before if it runs, and
// ends the shim unless containerd has yet to delete containers of the pod.
func (s *Sandboxes) ShutdownSandbox(ctx context.Context, r *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	if err := s.tasks.Remove(ctx, r.SandboxID); err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("shut down sandbox %s: %w", r.SandboxID, err)
	}
	s.mu.Lock()
	delete(s.made, r.SandboxID)
	s.mu.Unlock()
	s.tasks.Shutdown()
	return &sandboxapi.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics tells what the pod's machine and its helpers use on the host.
func (s *Sandboxes) SandboxMetrics(_ context.Context, r *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	c, err := s.tasks.Container(r.SandboxID)
	if err != nil {
		return nil, err
	}
	metrics, err := c.HostStats()
	if err != nil {
		return nil, err
	}
	data, err := toAny(metrics)
	if err != nil {
		return nil, err
	}
	return &sandboxapi.SandboxMetricsResponse{Metrics: &types.Metric{Timestamp: timestamppb.Now(), ID: r.SandboxID, Data: data}}, nil
}

// UpdateSandbox takes note of the limits of a pod that is resized in place: its machine
// keeps its size, so more than that is refused. Not as what is not implemented, which
// containerd takes for a shim that need not be asked.
func (s *Sandboxes) UpdateSandbox(_ context.Context, r *sandboxapi.UpdateSandboxRequest) (*sandboxapi.UpdateSandboxResponse, error) {
	c, err := s.tasks.Container(r.SandboxID)
	if err != nil {
		return nil, err
	}
	limits, err := cri.Updated(r.Sandbox)
	if err == nil && limits != nil {
		err = c.Fits(limits)
	}
	if err != nil {
		return nil, fmt.Errorf("update sandbox %s: %w: %v", r.SandboxID, errdefs.ErrInvalidArgument, err)
	}
	return &sandboxapi.UpdateSandboxResponse{}, nil
}
