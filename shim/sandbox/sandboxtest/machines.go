package sandboxtest

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"containerd-shim-uni/unikernel"
)

// Machines keeps machines that are nothing but listening sockets. Its fields are
// read and set while nobody calls it.
type Machines struct {
	// Made are all machines that were made, Destroyed the names for which Destroy
	// was called, Pressed those of which somebody pressed the power button.
	Made               []unikernel.Machine
	Destroyed, Pressed []string
	// Errors that calls return. A creation that fails leaves half of its machine.
	CreateErr, ResumeErr, PauseErr error
	// LoadErr is that of creations from a saved state, which leave nothing.
	LoadErr error
	// OnAttach and OnDetach are called by Attach and Detach before they do anything;
	// with an error that is all they do. With Doubtful a disk of which Attach failed
	// is there all the same.
	OnAttach, OnDetach func(unikernel.Disk) error
	Doubtful           bool
	// OnResume is called by Resume before it does anything.
	OnResume func(name string)

	mu         sync.Mutex
	machines   map[string]*machine
	destroyErr error
	stuck      chan struct{}
}

type machine struct {
	sockets []net.Listener
	luns    map[int]unikernel.Disk
	ended   chan struct{}
	end     unikernel.End
}

func (m *machine) over() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// Stop makes the hypervisor answer nothing, as SIGSTOP does: calls other than
// Destroy and Wait last until Continue or the end of their context.
func (f *Machines) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stuck = make(chan struct{})
}

// Continue ends Stop.
func (f *Machines) Continue() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.stuck)
	f.stuck = nil
}

// answer waits while the hypervisor does not answer, or returns the context's
// error.
func (f *Machines) answer(ctx context.Context) error {
	f.mu.Lock()
	stuck := f.stuck
	f.mu.Unlock()
	if stuck != nil {
		select {
		case <-stuck:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the hypervisor does not answer: %w: %w", unikernel.ErrUnavailable, ctx.Err())
	}
	return nil
}

// Create implements sandbox.Machines.
func (f *Machines) Create(ctx context.Context, m unikernel.Machine) (unikernel.Pids, error) {
	if err := f.answer(ctx); err != nil {
		return unikernel.Pids{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.machines[m.Name]; old != nil && !old.over() {
		return unikernel.Pids{}, fmt.Errorf("create machine %s: %w", m.Name, fs.ErrExist)
	}
	f.Made = append(f.Made, m)
	if m.Saved != "" && f.LoadErr != nil {
		return unikernel.Pids{}, f.LoadErr
	}
	vm := &machine{ended: make(chan struct{}), luns: map[int]unikernel.Disk{}}
	sockets := []string{m.Console}
	for _, c := range m.Channels {
		sockets = append(sockets, c.Socket)
	}
	for _, path := range sockets {
		l, err := net.Listen("unix", path)
		if err != nil {
			return unikernel.Pids{}, err
		}
		vm.sockets = append(vm.sockets, l)
	}
	if f.machines == nil {
		f.machines = map[string]*machine{}
	}
	f.machines[m.Name] = vm
	// A number that no process has: nothing may be killed by it.
	return unikernel.Pids{VM: 1 << 30}, f.CreateErr
}

// Shape implements sandbox.Machines.
func (f *Machines) Shape(m unikernel.Machine) (string, error) {
	m = m.Neutral("/")
	return fmt.Sprintf("%s-%d-%d-%d-%d", m.Type, m.MemoryMiB, m.VCPUs, len(m.Disks), len(m.NICs)), nil
}

// Resume implements sandbox.Machines.
func (f *Machines) Resume(ctx context.Context, name string) error {
	if f.OnResume != nil {
		f.OnResume(name)
	}
	return f.each(ctx, name, func() error { return f.ResumeErr })
}

// Pause implements sandbox.Machines.
func (f *Machines) Pause(ctx context.Context, name string) error {
	return f.each(ctx, name, func() error { return f.PauseErr })
}

// PowerButton implements sandbox.Machines.
func (f *Machines) PowerButton(ctx context.Context, name string) error {
	return f.each(ctx, name, func() error { f.Pressed = append(f.Pressed, name); return nil })
}

// each does something to a machine that runs.
func (f *Machines) each(ctx context.Context, name string, do func() error) error {
	if err := f.answer(ctx); err != nil {
		return err
	}
	return f.on(name, func(*machine) error { return do() })
}

// on is each for one whom the hypervisor answered, or who does not wait for that.
func (f *Machines) on(name string, do func(*machine) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil || m.over() {
		return fmt.Errorf("machine %s: %w", name, unikernel.ErrNotFound)
	}
	return do(m)
}

// Destroy implements sandbox.Machines.
func (f *Machines) Destroy(_ context.Context, name string) error {
	f.mu.Lock()
	f.Destroyed = append(f.Destroyed, name)
	err := f.destroyErr
	f.mu.Unlock()
	if err != nil {
		return err
	}
	f.End(name, unikernel.EndDestroyed)
	return nil
}

// FailDestroy makes Destroy fail from now on, or with nil no more.
func (f *Machines) FailDestroy(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.destroyErr = err
}

// End ends a machine, if it has not ended.
func (f *Machines) End(name string, reason unikernel.EndReason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil || m.over() {
		return
	}
	m.end = unikernel.End{Reason: reason, At: time.Now()}
	close(m.ended)
	for _, l := range m.sockets {
		l.Close()
	}
}

// Wait implements sandbox.Machines.
func (f *Machines) Wait(ctx context.Context, name string) (unikernel.End, error) {
	f.mu.Lock()
	m := f.machines[name]
	f.mu.Unlock()
	if m == nil {
		return unikernel.End{}, unikernel.ErrNotFound
	}
	select {
	case <-m.ended:
		return m.end, nil
	case <-ctx.Done():
		return unikernel.End{}, ctx.Err()
	}
}

// Alive is how many machines have not ended.
func (f *Machines) Alive() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, m := range f.machines {
		if !m.over() {
			n++
		}
	}
	return n
}

// InNetNS implements sandbox.Machines.
func (f *Machines) InNetNS() bool { return true }

// Emulated implements sandbox.Machines.
func (f *Machines) Emulated() bool { return false }
