package task

import (
	"context"
	"fmt"
	"maps"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// solo is the place of a container in a pod whose guest holds one program: it has a
// machine of its own, as one that is alone, in the network of the pod. As that can be of
// one machine only, the pod has one such container at a time.
type solo struct {
	alone
	pod *pod
	// known are the container's names in the pod.
	known Names
}

var _ place = solo{}

// newSolo gives the container's machine names of its own.
func newSolo(c *Container, p *pod) solo {
	s := solo{alone{founder{c}}, p, c.names}
	c.names.Sandbox = c.names.own()
	return s
}

// read implements place.
func (s solo) read(cr *creation) error {
	spec, keeper := s.c.app.Spec, s.pod.keeper
	spec.Mounts = s.pod.mountsOf(spec)
	if spec.Hostname == "" {
		spec.Hostname = keeper.app.Spec.Hostname
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	own, pids, err := s.pod.namespaces(spec.Linux.Namespaces)
	if err != nil {
		return err
	}
	if pids != nil && pids != keeper {
		return fmt.Errorf("%w: the container is to see the processes of container %s, and each has a machine of its own in a pod of the guest %q: use the guest \"linux\" for it",
			unikernel.ErrNotImplemented, pids.names.ID, keeper.cfg.Guest)
	}
	for i := range own {
		if own[i].Type == specs.NetworkNamespace {
			own[i].Path = keeper.sandbox.NetNS()
		}
	}
	spec.Linux.Namespaces = own
	if l := keeper.app.Spec.Linux; l != nil {
		sysctls := maps.Clone(l.Sysctl)
		if sysctls == nil {
			sysctls = map[string]string{}
		}
		maps.Copy(sysctls, spec.Linux.Sysctl)
		spec.Linux.Sysctl = sysctls
	}
	return s.alone.read(cr)
}

// join implements place.
func (s solo) join(ctx context.Context, cr *creation) error {
	if err := s.pod.reserve(s.c); err != nil {
		return err
	}
	cr.undo.add("leave the pod", func(context.Context) error { return s.leave() })
	if err := recordMember(s.known, s.c.bundle); err != nil {
		return err
	}
	return s.alone.join(ctx, cr)
}

// build implements place.
func (s solo) build(ctx context.Context, cr *creation) error {
	if err := s.alone.build(ctx, cr); err != nil {
		return err
	}
	return s.pod.admit(s.c)
}

// release implements place: the network is another's when it is free.
func (s solo) release(ctx context.Context) error {
	if err := s.alone.release(ctx); err != nil {
		return err
	}
	return s.leave()
}

func (s solo) leave() error {
	s.pod.dismiss(s.c)
	return forgetMember(s.known)
}

// reserve keeps the network of a hollow pod for a container.
func (p *pod) reserve(c *Container) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sole != nil {
		return fmt.Errorf("container %s: pod %s has container %s already, and a pod of the guest %q has one at a time: init containers may come before it, sidecars cannot come beside it; use the guest \"linux\" for pods of several: %w",
			c.names.ID, p.keeper.names.ID, p.sole.names.ID, p.keeper.cfg.Guest, errdefs.ErrFailedPrecondition)
	}
	p.sole = c
	return nil
}

// withMachine is the container whose sandbox has the pod's machine: its own, unless the
// pod is hollow and has a container.
func (p *pod) withMachine() *Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sole != nil && p.members[p.sole] {
		return p.sole
	}
	return p.keeper
}
