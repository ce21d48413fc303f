package task

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Exit statuses that no process reported.
const (
	statusKilled        = 128 + 9
	statusNotFound      = 127
	statusNotExecutable = 126
	statusUnknown       = 255
)

// watch waits for the end of the container, records it, and frees what it held
// on the host. It is the only one that does.
func (c *Container) watch() {
	w := &watcher{c: c}
	exit := w.wait()
	c.collectExecs()
	reported := c.exitReported()
	c.place.settle(reported)
	release := sync.OnceFunc(c.release)
	if reported {
		// Whoever is told of an exit expects the machine's memory back,
		within(exitPatience, release)
	}
	c.standIn.End() // and the pid to be gone
	c.finish(exit, w.end)
	c.killing.Wait()
	release()
	c.adviseFailed(exit.Status)
	close(c.released)
}

// watcher is what watch knows so far.
type watcher struct {
	c   *Container
	end *unikernel.End // the sandbox's, once it is known to have ended
}

// sandboxEnded takes note of the sandbox's end.
func (w *watcher) sandboxEnded() {
	end := w.c.sandbox.End()
	w.end = &end
}

// endWithin waits a bounded time for the sandbox's end.
func (w *watcher) endWithin(d time.Duration) {
	if w.end != nil {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.c.sandbox.Ended():
		w.sandboxEnded()
	case <-timer.C:
	}
}

// wait returns the container's exit, however it came.
func (w *watcher) wait() unikernel.Exit {
	c := w.c
	var b boot
	select {
	case b = <-c.booted:
	case <-c.sandbox.Ended():
		w.sandboxEnded()
		if !c.abandonStart(fmt.Errorf("%w: %s", errMachineEnded, w.end.Reason)) {
			return w.verdict()
		}
		b = <-c.booted
	case <-c.place.expelled():
		if !c.abandonStart(errKilled) {
			return w.verdict()
		}
		b = <-c.booted
	}
	if b.err != nil {
		if errors.Is(b.err, unikernel.ErrUnavailable) && !errors.Is(b.err, errBootTimeout) && !errors.Is(b.err, errKilled) {
			w.endWithin(lastWords) // the guest is gone, so its machine may be
		}
		exit := w.failedStart(b.err)
		c.place.expel()
		return exit
	}
	over := w.end != nil
	if !over {
		select {
		case <-b.process.Exited():
		case <-c.sandbox.Ended():
			w.sandboxEnded()
			over = true
		case <-c.place.expelled():
			over = true
		}
	}
	if over {
		timer := time.NewTimer(lastWords)
		defer timer.Stop()
		select {
		case <-b.process.Exited():
		case <-timer.C:
			return w.verdict()
		}
	}
	exit, err := b.process.Exit()
	if err == nil {
		return exit
	}
	w.endWithin(lastWords)
	return w.verdict()
}

// abandonStart is called when the machine, or the container in it, ended before its
// process ran. It makes a start that is under way fail, or later ones impossible, and
// says whether one is under way. A guest that starts by itself may have ended because
// it was ready: then its start goes on.
func (c *Container) abandonStart(why error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == Created {
		_ = c.allow(opExit)
		return false
	}
	if !c.sandbox.RanAlone() {
		c.cancelBoot(why)
	}
	return true
}

// failedStart is the exit of a container whose process never ran.
func (w *watcher) failedStart(err error) unikernel.Exit {
	exit := w.verdict()
	if status, ok := unstartable(err); ok {
		exit.Status = status
	}
	return exit
}

// verdict is the exit of a container whose guest did not report one.
func (w *watcher) verdict() unikernel.Exit {
	exit := unikernel.Exit{Status: statusUnknown, At: time.Now()}
	if w.end != nil && !w.end.At.IsZero() {
		exit.At = w.end.At
	}
	w.c.mu.Lock()
	killed := w.c.killed
	w.c.mu.Unlock()
	if killed {
		exit.Status = statusKilled
		return exit
	}
	if w.end == nil {
		return exit
	}
	switch w.end.Reason {
	case unikernel.EndDestroyed, unikernel.EndFailed, unikernel.EndUnknown:
		exit.Status = statusKilled
	}
	return exit
}

// finish records the exit and announces it.
func (c *Container) finish(exit unikernel.Exit, end *unikernel.End) {
	c.explain(exit, end)
	if end != nil && end.Reason == unikernel.EndFailed && c.sandbox.OutOfMemory() {
		c.events.Send(&events.TaskOOM{ContainerID: c.names.ID})
	}
	c.mu.Lock()
	if c.state != Stopped {
		if err := c.allow(opExit); err != nil {
			c.log().WithError(err).Error("exit of a container in a state that cannot exit")
		}
	}
	c.exit = exit
	c.events.Send(&events.TaskExit{
		ContainerID: c.names.ID, ID: c.names.ID, Pid: uint32(c.standIn.Pid()),
		ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	})
	c.mu.Unlock()
	close(c.exited)
}

// explain logs an end that nobody asked for, with what may tell why.
func (c *Container) explain(exit unikernel.Exit, end *unikernel.End) {
	c.mu.Lock()
	killed, startErr, proc := c.killed, c.startErr, c.process
	c.mu.Unlock()
	if killed {
		return
	}
	entry := c.log().WithField("status", exit.Status)
	if err := sessionLost(proc); err != nil {
		entry = entry.WithError(err)
	}
	switch {
	case startErr != nil:
		if _, ok := unstartable(startErr); ok {
			return // the client is told, and nothing is wrong with the guest
		}
		entry = entry.WithError(startErr)
	case proc != nil && reported(proc):
		return
	case end == nil:
		entry = entry.WithField(fieldReason, "the guest fell silent")
	default:
		entry = entry.WithField(fieldReason, end.Reason.String()).WithField("detail", end.Detail)
	}
	entry.WithField(fieldConsole, c.sandbox.Tail(consoleInLog)).Error("container ended without its guest reporting an exit")
}

// exitReported says whether the first process's exit is known from the guest.
func (c *Container) exitReported() bool {
	c.mu.Lock()
	proc := c.process
	c.mu.Unlock()
	return proc != nil && reported(proc)
}

// within begins to do something, and returns when it is done or the time is up.
func within(d time.Duration, do func()) {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// reported says whether a process's exit is known from the guest.
func reported(p unikernel.Process) bool {
	select {
	case <-p.Exited():
		_, err := p.Exit()
		return err == nil
	default:
		return false
	}
}

// sessionLost says why the guest will not report a process's exit, if that is
// known: the machine's end alone does not tell that it was us who hung up.
func sessionLost(p unikernel.Process) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.Exited():
		_, err := p.Exit()
		return err
	default:
		return nil
	}
}

// release lets the output drain, leaves the sandbox and closes the streams.
func (c *Container) release() {
	defer c.took("release", time.Now())
	c.mu.Lock()
	proc := c.process
	c.mu.Unlock()
	if proc != nil && reported(proc) {
		timer := time.NewTimer(drainTimeout)
		select {
		case <-proc.Drained():
		case <-c.drain:
		case <-timer.C:
			c.log().Warn("nobody reads the container's output; what is left of it is lost")
		}
		timer.Stop()
	}
	c.sandbox.Leave(c.names.ID)
	if err := c.streams.Close(); err != nil {
		c.log().WithError(err).Warn("closing the container's streams")
	}
}
