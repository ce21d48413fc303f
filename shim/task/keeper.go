package task

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/volume"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// keeper is the place of a pod's own container, the "pause" of Kubernetes. It has no
// disks, and its program does not run: what keeps the pod is the machine.
type keeper struct {
	founder
	pod  *pod
	boot unikernel.Boot
}

var _ place = (*keeper)(nil)

func newKeeper(c *Container) *keeper {
	return &keeper{founder: founder{c}, pod: &pod{keeper: c, volumes: volume.NewSet(), members: map[*Container]bool{}, sets: map[*Container]string{}, scores: map[*Container]int{}}}
}

// read implements place. What the specification mounts is for a program, or for all
// containers of the pod.
func (k *keeper) read(cr *creation) error {
	spec := k.c.app.Spec
	k.pod.mounts = commonMounts(spec.Mounts, k.pod.volumes)
	spec.Mounts = nil
	cr.rootless = true
	above, err := abovePod(spec, k.c.names)
	if err != nil {
		return err
	}
	k.pod.cpus = allCPUs(above.CPUSet)
	ram, err := hostRAM()
	if err != nil {
		return err
	}
	size, err := podSize(spec, above, k.c.cfg.Pod, ram)
	if err != nil {
		return err
	}
	// The limits of that program are not the pod's, whose cgroup has its own; devices,
	// which a privileged pod's has, are for it alone.
	if spec.Linux != nil {
		spec.Linux.Resources, spec.Linux.Devices = nil, nil
	}
	return k.found(cr.host, size) // its out-of-memory score holds until there are containers, see pod.score
}

// plan implements place.
func (k *keeper) plan(ctx context.Context, cr *creation) (err error) {
	if err := k.connect(ctx, cr.host); err != nil {
		return err
	}
	guest, ok := k.c.guest.(unikernel.PodGuest)
	if k.pod.hollow = !ok; k.pod.hollow {
		return nil
	}
	k.boot, err = guest.Pod(k.c.app, k.c.sandbox.Size())
	return err
}

// build implements place.
func (k *keeper) build(ctx context.Context, cr *creation) error {
	if k.pod.hollow {
		return k.hollow(cr)
	}
	if k.boot.ShareTag != "" {
		var err error
		if k.pod.shares, err = k.share(cr); err != nil {
			return err
		}
	}
	return k.create(ctx, cr, func(context.Context, unikernel.Network) (sandbox.Hardware, error) {
		return sandbox.Hardware{Boot: k.boot, LUNs: true, Share: k.pod.shares, Submounts: true}, nil
	})
}

// hollow makes a pod that has no machine.
func (k *keeper) hollow(cr *creation) error {
	cr.undo.add("leave sandbox", func(context.Context) error { k.c.sandbox.Leave(k.c.names.ID); return nil })
	return k.c.sandbox.Hollow()
}

// enter implements place.
func (k *keeper) enter(ctx context.Context) (inGuest, error) {
	session, err := k.c.sandbox.Boot(ctx)
	if err != nil {
		return nil, err
	}
	if k.pod.hollow {
		return newPause(k.c.sandbox), nil
	}
	pod, ok := session.(unikernel.PodSession)
	if !ok {
		return nil, fmt.Errorf("%w: the guest %q holds one container", unikernel.ErrNotImplemented, k.c.guest.Name())
	}
	app := k.c.app
	app.Network = k.c.sandbox.Network()
	if err := pod.Configure(ctx, app, k.boot.ShareTag); err != nil {
		return nil, err
	}
	return newPause(k.c.sandbox), nil
}

// settle implements place: the machine ends, after all that is in it.
func (k *keeper) settle(bool) {
	k.pod.end()
	k.c.sandbox.Leave(k.c.names.ID)
	k.pod.volumes.Close()
}

// freezer implements place.
func (k *keeper) freezer() (freezer, error) {
	return nil, fmt.Errorf("%w: a pod's own container holds no program: pause the pod's containers", unikernel.ErrNotImplemented)
}

// inForce implements place.
func (k *keeper) inForce() inForce { return inForce{} }

// pause is what a pod's own container is in the guest: nothing. It stands for the
// machine, and has ended when that has.
type pause struct {
	exited chan struct{}

	mu   sync.Mutex
	exit unikernel.Exit
	err  error
}

func newPause(s *sandbox.Sandbox) *pause {
	p := &pause{exited: make(chan struct{})}
	go func() {
		select {
		case <-s.Ended():
			p.end(unikernel.Exit{}, fmt.Errorf("%w: the machine has ended: %s", unikernel.ErrUnavailable, s.End().Reason))
		case <-p.exited:
		}
	}()
	return p
}

func (p *pause) end(exit unikernel.Exit, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.exited:
	default:
		p.exit, p.err = exit, err
		close(p.exited)
	}
}

// OnOOM implements inGuest.
func (p *pause) OnOOM(func()) {}

// Run implements inGuest.
func (p *pause) Run(context.Context, unikernel.Stdio) (unikernel.Process, error) { return p, nil }

// Exec implements inGuest.
func (p *pause) Exec(context.Context, string, *specs.Process, unikernel.Stdio) (unikernel.Process, error) {
	return nil, fmt.Errorf("%w: a pod's own container holds no program and no files: run it in one of the pod's containers", unikernel.ErrNotImplemented)
}

// Limit is called for what a container may use.
func (p *pause) Limit(context.Context, unikernel.Limits) error {
	return fmt.Errorf("%w: the pod's machine has the size it was made with: change the limits of the pod's containers", unikernel.ErrNotImplemented)
}

// Signal implements unikernel.Process. Kubernetes' program ends by SIGINT and SIGTERM
// with status 0 (build/pause/linux/pause.c), and ignores the others.
func (p *pause) Signal(_ context.Context, sig syscall.Signal, _ bool) error {
	select {
	case <-p.exited:
		return unikernel.ErrNotFound
	default:
	}
	switch sig {
	case syscall.SIGKILL:
		p.end(unikernel.Exit{Status: statusKilled, At: time.Now()}, nil)
	case syscall.SIGINT, syscall.SIGTERM:
		p.end(unikernel.Exit{At: time.Now()}, nil)
	}
	return nil
}

// Resize implements unikernel.Process.
func (p *pause) Resize(context.Context, uint16, uint16) error { return nil }

// CloseStdin implements unikernel.Process.
func (p *pause) CloseStdin(context.Context) error { return nil }

// Exited implements unikernel.Process.
func (p *pause) Exited() <-chan struct{} { return p.exited }

// Drained implements unikernel.Process: it writes nothing.
func (p *pause) Drained() <-chan struct{} { return p.exited }

// Exit implements unikernel.Process.
func (p *pause) Exit() (unikernel.Exit, error) {
	select {
	case <-p.exited:
	default:
		return unikernel.Exit{}, fmt.Errorf("%w: it has not exited", unikernel.ErrInvalid)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit, p.err
}
