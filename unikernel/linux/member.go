package linux

import (
	"context"
	"fmt"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// member is a container in the guest.
type member struct {
	s  *session
	id uint32

	// What follows is guarded by the session's mutex.
	onOOM func()
	spec  *specs.Spec // once the guest was asked to make it
	ran   bool
	space *wire.Space // what was told before
}

var (
	_ unikernel.PodSession       = (*session)(nil)
	_ unikernel.ContainerSession = (*member)(nil)
)

func (s *session) newMember() *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastMember++
	m := &member{s: s, id: s.lastMember}
	s.members[m.id] = m
	return m
}

// forget ends what is known of a container.
func (s *session) forget(m *member) {
	s.mu.Lock()
	delete(s.members, m.id)
	s.mu.Unlock()
}

// Configure implements unikernel.PodSession.
func (s *session) Configure(ctx context.Context, app unikernel.App, shareTag string) error {
	b, err := sandbox(app, shareTag)
	if err != nil {
		return err
	}
	s.mu.Lock()
	again := s.configured
	s.configured = true
	s.mu.Unlock()
	if again {
		return fmt.Errorf("%w: the machine is configured already", unikernel.ErrInvalid)
	}
	behind, _, err := s.compareClocks(ctx)
	if err != nil {
		return err
	}
	b.Clock = wire.Clock{Behind: int64(behind)}
	return s.call(ctx, wire.KindSandbox, b.Encode())
}

// Container implements unikernel.PodSession.
func (s *session) Container(ctx context.Context, app unikernel.App, disks []unikernel.DiskRequest) (unikernel.ContainerSession, error) {
	if err := check(app.Spec); err != nil {
		return nil, err
	}
	if len(app.Spec.Linux.Sysctl) > 0 {
		return nil, refuse("kernel parameters of one container of several", "they are the machine's; set them for the pod")
	}
	c, err := container(app, disks)
	if err != nil {
		return nil, err
	}
	c.Limits = limits(app.Spec)
	if c.PIDs, err = s.pids(app.PIDs); err != nil {
		return nil, err
	}
	m := s.newMember()
	if err := m.make(ctx, app.Spec, c); err != nil {
		return nil, err
	}
	return m, nil
}

// pids makes the wire's form of a PID namespace.
func (s *session) pids(ns unikernel.PIDNamespace) (wire.PIDNamespace, error) {
	switch {
	case ns.Of != nil:
		m, ok := ns.Of.(*member)
		if !ok || m.s != s {
			return wire.PIDNamespace{}, fmt.Errorf("%w: the PID namespace of a container that is in another machine", unikernel.ErrInvalid)
		}
		return wire.PIDNamespace{Kind: wire.PIDContainer, Container: m.id}, nil
	case ns.Pod:
		return wire.PIDNamespace{Kind: wire.PIDSandbox}, nil
	default:
		return wire.PIDNamespace{}, nil
	}
}

// make has the guest make the container. If it does so after ctx ended, it shall
// remove it again.
func (m *member) make(ctx context.Context, spec *specs.Spec, c wire.Container) error {
	m.s.mu.Lock()
	m.spec, c.ID, c.Space = spec, m.id, m.space
	m.s.mu.Unlock()
	_, left, err := m.s.callLate(ctx, wire.KindContainer, c.Encode(), func(r wire.Reply) {
		if replyError(r) == nil {
			ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
			defer cancel()
			_ = m.Remove(ctx) // nobody is left to tell
			return
		}
		m.s.forget(m)
	})
	if err != nil && !left {
		m.s.forget(m)
	}
	return err
}

// removeTimeout bounds the removal of a container that nobody waits for: longer than
// what PID 1 takes at most.
const removeTimeout = time.Minute

// Run implements unikernel.Session: a pod of one container.
func (s *session) Run(ctx context.Context, app unikernel.App, io unikernel.Stdio) (unikernel.Process, error) {
	if err := check(app.Spec); err != nil {
		return nil, err
	}
	c, err := container(app, disks(app.Spec))
	if err != nil {
		return nil, err
	}
	// The machine's size is the limit of its memory and processors.
	c.Limits.Pids = limits(app.Spec).Pids
	if _, err := process(app.Spec.Process, nil, io); err != nil {
		return nil, err
	}
	tag := ""
	if len(app.Shares) > 0 {
		tag = shareTag
	}
	if err := s.Configure(ctx, app, tag); err != nil {
		return nil, err
	}
	if err := s.only.make(ctx, app.Spec, c); err != nil {
		return nil, err
	}
	return s.only.Run(ctx, io)
}

// Run implements unikernel.ContainerSession.
func (m *member) Run(ctx context.Context, io unikernel.Stdio) (unikernel.Process, error) {
	w, err := process(m.spec.Process, nil, io)
	if err != nil {
		return nil, err
	}
	m.s.mu.Lock()
	again := m.ran
	m.ran = true
	m.s.mu.Unlock()
	if again {
		return nil, fmt.Errorf("%w: the container was started already", unikernel.ErrInvalid)
	}
	return m.start(ctx, wire.KindRun, io, w)
}

// Exec implements unikernel.Session.
func (s *session) Exec(ctx context.Context, id string, p *specs.Process, io unikernel.Stdio) (unikernel.Process, error) {
	return s.only.Exec(ctx, id, p, io)
}

// Exec implements unikernel.ContainerSession. The id names the process to a person
// only.
func (m *member) Exec(ctx context.Context, id string, p *specs.Process, io unikernel.Stdio) (unikernel.Process, error) {
	m.s.mu.Lock()
	spec, ran := m.spec, m.ran
	m.s.mu.Unlock()
	if !ran {
		return nil, fmt.Errorf("%w: exec %s: the container is not running", unikernel.ErrInvalid, id)
	}
	w, err := process(p, spec.Process.Capabilities, io)
	if err != nil {
		return nil, err
	}
	return m.start(ctx, wire.KindExec, io, w)
}

func (m *member) start(ctx context.Context, kind wire.Kind, io unikernel.Stdio, w wire.Process) (unikernel.Process, error) {
	m.s.mu.Lock()
	spec := m.spec
	m.s.mu.Unlock()
	filter, flags, err := seccompFilter(spec.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	w.Filter, w.FilterFlags = string(filter), flags
	p, err := m.s.start(ctx, kind, io, w.Terminal, func(id uint32) []byte {
		return wire.Start{Container: m.id, ID: id, Process: w}.Encode()
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Remove implements unikernel.ContainerSession.
func (m *member) Remove(ctx context.Context) error {
	if err := m.s.call(ctx, wire.KindRemove, wire.Target{Container: m.id}.Encode()); err != nil {
		return err
	}
	m.s.forget(m)
	return nil
}

// OnOOM implements unikernel.Session.
func (s *session) OnOOM(f func()) { s.only.OnOOM(f) }

// OnOOM implements unikernel.ContainerSession.
func (m *member) OnOOM(f func()) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.onOOM = f
}

// Space implements unikernel.Spacious.
func (s *session) Space(ctx context.Context, free, held int64) error {
	return s.only.Space(ctx, free, held)
}

// Space implements unikernel.Spacious. What is told of a container that is not there
// yet comes with it.
func (m *member) Space(ctx context.Context, free, held int64) error {
	space := wire.Space{Free: uint64(max(free, 0)), Held: uint64(max(held, 0))}
	m.s.mu.Lock()
	made := m.spec != nil
	m.space = &space
	m.s.mu.Unlock()
	if !made {
		return nil
	}
	return m.s.call(ctx, wire.KindSpace, wire.SetSpace{Container: m.id, Space: space}.Encode())
}
