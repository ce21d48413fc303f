package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"containerd-shim-uni/shim/hooks"
	"containerd-shim-uni/shim/rootfs"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// deletion is one run of Delete that others can wait for.
type deletion struct {
	done chan struct{}
	err  error
}

// Delete frees everything the container holds. One that runs is refused; one
// that was never started is killed first. A second call while the first is at
// work waits for it.
func (c *Container) Delete(ctx context.Context) (Status, error) {
	if c.Status().State == Created {
		c.mu.Lock()
		c.killed = true
		c.mu.Unlock()
		c.place.expel()
		if _, err := c.Wait(ctx); err != nil {
			return Status{}, fmt.Errorf("delete container %s: %w", c.names.ID, err)
		}
	}
	c.mu.Lock()
	d := c.deletion
	if d == nil {
		if err := c.allow(opDelete); err != nil {
			c.mu.Unlock()
			return Status{}, err
		}
		d = &deletion{done: make(chan struct{})}
		c.deletion = d
		go c.delete(context.WithoutCancel(ctx), d)
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return c.Status(), d.err
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

func (c *Container) delete(ctx context.Context, d *deletion) {
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	defer close(d.done)
	c.mu.Lock()
	proc := c.process
	c.mu.Unlock()
	if proc != nil {
		drainFor(ctx, proc, deleteDrainTimeout)
	}
	c.cutDrain()
	select {
	case <-c.released:
		if d.err = errors.Join(cleanup(ctx, c.names, c.bundle, c.disks.makerOrNil()), c.place.release(ctx)); d.err == nil {
			c.hide()
			c.disks.release()
			c.unclaim()
			PostStop(ctx, c.app, c.bundle)
		}
	case <-ctx.Done():
		d.err = fmt.Errorf("delete container %s: it has not left its machine: %w", c.names.ID, ctx.Err())
	}
	if d.err != nil {
		_ = c.step(opDeleteFailed)
		c.mu.Lock()
		c.deletion = nil // another call may try again
		c.mu.Unlock()
		return
	}
	st := c.Status()
	c.events.Send(&events.TaskDelete{
		ContainerID: c.names.ID, Pid: uint32(st.Pid),
		ExitStatus: st.Exit.Status, ExitedAt: timestamppb.New(st.Exit.At),
	})
}

// cutDrain ends waiting for readers of the output.
func (c *Container) cutDrain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.drain:
	default:
		close(c.drain)
	}
}

// drainFor waits a bounded time until the output of a process has been taken.
func drainFor(ctx context.Context, p unikernel.Process, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.Drained():
	case <-timer.C:
	case <-ctx.Done():
	}
}

// PostStop runs the hooks for a container that is gone. As the specification
// wants it, one that fails is only logged.
func PostStop(ctx context.Context, app unikernel.App, bundle string) {
	if err := hooks.Stopped(ctx, app, bundle); err != nil {
		log.G(ctx).WithError(err).WithField(fieldContainer, app.Namespace+"/"+app.ID).Warn("poststop hooks")
	}
}

// PostStopOf is PostStop for a bundle whose shim is gone.
func PostStopOf(ctx context.Context, names Names, bundle string) {
	if spec, err := readSpec(bundle); err == nil {
		PostStop(ctx, unikernel.App{Namespace: names.Namespace, ID: names.ID, Spec: spec}, bundle)
	}
}

// Cleanup frees whatever there is of a container, known by names alone; nothing need
// be there. With the owner of a sandbox that is all of the sandbox, and of the other
// containers in it. All of it is tried, whatever fails. The machine has been destroyed
// before. Without disks, what it wrote is saved after its next start.
func Cleanup(ctx context.Context, names Names, netns, bundle string, networks sandbox.Networks, disks Disks) error {
	err := cleanup(ctx, names, bundle, disks)
	if !names.Owns() {
		return errors.Join(err, cleanupOwn(ctx, names, netns, networks), forgetMember(names))
	}
	members, listErr := recordedMembers(names)
	err = errors.Join(err, listErr)
	for _, m := range members {
		err = errors.Join(err, cleanup(ctx, m.names, m.bundle, disks), cleanupOwn(ctx, m.names, netns, networks))
	}
	return errors.Join(err, sandbox.Cleanup(ctx, names.Sandbox, netns, networks))
}

// cleanupOwn frees the sandbox of its own that a container in a pod may have.
func cleanupOwn(ctx context.Context, names Names, netns string, networks sandbox.Networks) error {
	if own := names.own(); own.Exists() {
		return sandbox.Cleanup(ctx, own, netns, networks)
	}
	return nil
}

// cleanup frees what is the container's own.
func cleanup(ctx context.Context, names Names, bundle string, disks Disks) error {
	if disks != nil {
		_, err := merge(ctx, names, disks)
		if err := errors.Join(err, disks.Recover(ctx, names.Data)); err != nil {
			log.G(ctx).WithError(err).WithField(fieldContainer, names.ID).Error("what the container wrote is not in its snapshot")
		}
	}
	if err := errors.Join(rootfs.Unmount(rootfs.Path(bundle, "")), sandbox.RemoveTree(names.Data)); err != nil {
		return fmt.Errorf("clean up container %s: %w", names.ID, err)
	}
	return nil
}
