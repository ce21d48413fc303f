package task

import (
	"context"

	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// place is what a container is in its sandbox, and all that depends on it: one that
// has it to itself (alone), the one that keeps a pod's (keeper), or another of that
// pod (member).
type place interface {
	// These are called in this order while the container is created, but for occupy,
	// which goes on beside plan.

	// read takes in what the specification says of the sandbox, and leaves in it what
	// is the container's own. It changes nothing else.
	read(cr *creation) error
	// join makes the container a member of its sandbox.
	join(ctx context.Context, cr *creation) error
	// plan chooses the guest and asks it what the container needs.
	plan(ctx context.Context, cr *creation) error
	// occupy prepares the host and returns the container's stand-in there, of which
	// hooks, unless it is nil, is told.
	occupy(ctx context.Context, hooks func(context.Context, int) error) (*sandbox.StandIn, error)
	// build makes the machine where that is the container's. After it creation does
	// not fail.
	build(ctx context.Context, cr *creation) error

	// enter has the container in a guest that runs.
	enter(ctx context.Context) (inGuest, error)
	// expel ends the container whatever its guest does, as a power cut would. One
	// that ends without its sandbox closes expelled.
	expel()
	expelled() <-chan struct{}
	// settle is called when the container has ended; reported says that its guest
	// said so. When it returns, nothing of the container runs, and what it wrote is
	// where others see it.
	settle(reported bool)
	// release is called when it is deleted.
	release(ctx context.Context) error

	// freezer pauses the container, or says why it cannot be.
	freezer() (freezer, error)
	// limitCPU changes limits of CPU.
	limitCPU(ctx context.Context, cpu *specs.LinuxCPU) error
	// inForce are the limits that the guest holds a container to from the beginning.
	inForce() inForce
}

// freezer stops all of a container and lets it go on. Its methods return when that is
// so, or known not to be.
type freezer interface {
	Pause() error
	Resume() error
}

// inGuest is a container in its guest, whatever else is there: a Session's only one,
// or a ContainerSession.
type inGuest interface {
	OnOOM(f func())
	Run(context.Context, unikernel.Stdio) (unikernel.Process, error)
	Exec(ctx context.Context, id string, p *specs.Process, io unikernel.Stdio) (unikernel.Process, error)
}

// sole is the only container of a session.
type sole struct {
	unikernel.Session
	app unikernel.App
}

// Run implements inGuest.
func (s sole) Run(ctx context.Context, io unikernel.Stdio) (unikernel.Process, error) {
	return s.Session.Run(ctx, s.app, io)
}

// as returns what else a guest can do for a container.
func as[T any](in inGuest) (T, bool) {
	if s, ok := in.(sole); ok {
		t, ok := s.Session.(T)
		return t, ok
	}
	t, ok := in.(T)
	return t, ok
}
