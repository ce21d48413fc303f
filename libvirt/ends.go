package libvirt

import (
	"context"
	"fmt"
	"time"

	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
)

// Wait returns how the machine ended, at the moment at which that is known:
// QEMU may still be there for a moment. A machine of another process on the
// same libvirt can be waited for too. One that is not there is
// unikernel.ErrNotFound; when the driver is closed the answer is
// unikernel.ErrUnavailable.
func (d *Driver) Wait(ctx context.Context, name string) (unikernel.End, error) {
	d.mu.Lock()
	dom := d.domains[name]
	d.mu.Unlock()
	if dom == nil {
		var err error
		if dom, err = d.attach(ctx, name); err != nil {
			return unikernel.End{}, fmt.Errorf("wait for machine %s: %w", name, err)
		}
	}
	select {
	case <-dom.ended:
		return dom.end, nil
	case <-ctx.Done():
		return unikernel.End{}, fmt.Errorf("wait for machine %s: %w", name, ctx.Err())
	case <-d.ctx.Done():
		return unikernel.End{}, fmt.Errorf("wait for machine %s: %w: the connection to libvirt is closed", name, unikernel.ErrUnavailable)
	}
}

// attach makes the record of a machine that another process started.
func (d *Driver) attach(ctx context.Context, name string) (*domain, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := d.do(ctx, func(c *lv.Connect) error {
		dom, err := c.LookupDomainByName(name)
		if err != nil {
			return wrap(err, "find it")
		}
		return wrap(dom.Free(), "let go of it")
	})
	if err != nil {
		return nil, err
	}
	dom := newDomain(name)
	d.mu.Lock()
	if other := d.domains[name]; other != nil {
		d.mu.Unlock()
		return other, nil
	}
	d.domains[name] = dom
	d.mu.Unlock()
	if err := d.watch(dom, findHelpers(d.target, name)); err != nil {
		d.mu.Lock()
		delete(d.domains, name)
		d.mu.Unlock()
		return nil, fmt.Errorf("%w: its QEMU has ended", unikernel.ErrNotFound)
	}
	d.inspect(dom, "") // it may have ended before events of it could arrive
	return dom, nil
}

// finish records how the machine ended; only the first to know counts. What
// ends after Destroy was called was destroyed.
func (d *Driver) finish(dom *domain, e unikernel.End) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dom.finish(e)
}

// finish is that of the driver. The caller holds Driver.mu.
func (dom *domain) finish(e unikernel.End) {
	if dom.is(condemned) {
		e.Reason = unikernel.EndDestroyed
	}
	if dom.passes(ends) {
		dom.close(e)
	}
}

// close tells those who wait for the end.
func (dom *domain) close(e unikernel.End) {
	e.At = time.Now()
	dom.end = e
	close(dom.ended)
}

// onLifecycle runs in libvirt's event loop.
func (d *Driver) onLifecycle(_ *lv.Connect, ldom *lv.Domain, ev *lv.DomainEventLifecycle) {
	name, err := ldom.GetName()
	if err != nil {
		return
	}
	d.mu.Lock()
	dom := d.domains[name]
	if dom != nil && ev.Event == lv.DOMAIN_EVENT_STARTED {
		dom.passes(seen)
	}
	its := dom != nil && !dom.is(starting)
	if its && ev.Event == lv.DOMAIN_EVENT_STOPPED && dom.vm != nil && dom.vm.runs() {
		its = false // that of a machine of the name before: libvirt tells when QEMU has ended
	}
	d.mu.Unlock()
	if reason, detail, ok := endOf(ev.Event, ev.Detail); ok && its {
		d.tell(dom, unikernel.End{Reason: reason, Detail: detail})
	}
}

// tell records an end that an event told of. Where the guest may end its QEMU
// with a status, that tells more than the event, be it of a QEMU that is gone
// (up to version 8) or of a guest that has shut down (since): the event counts
// when the status is known to be none of the guest's, see heed.
func (d *Driver) tell(dom *domain, e unikernel.End) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !dom.debugExit || (e.Reason != unikernel.EndFailed && e.Reason != unikernel.EndShutdown) {
		dom.finish(e)
		return
	}
	if dom.is(told) {
		return // the first counts
	}
	if dom.passes(hinted) {
		dom.end = e
		return
	}
	dom.finish(e)
}

// heed lets events count, those before too: QEMU has ended, with this status.
func (d *Driver) heed(dom *domain, status exitCode) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := status.guestStatus(); ok && dom.debugExit {
		dom.finish(unikernel.End{Reason: unikernel.EndExited, Status: s, Detail: status.text})
		return
	}
	if !dom.passes(died) || dom.is(dead) {
		return
	}
	if dom.end.Reason == unikernel.EndFailed && status.text != "" {
		dom.end.Detail = status.text
	}
	dom.close(dom.end)
}

// crashEvents are QEMU's events of a panic device that is told of a crash: one
// that ends the machine, and one with which the guest deals itself.
var crashEvents = []string{"GUEST_PANICKED", "GUEST_CRASHLOADED"}

// onCrash runs in libvirt's event loop. libvirt's own event of a crash comes by
// way of a worker, and so may come after that of the shutdown which follows.
func (d *Driver) onCrash(_ *lv.Connect, ldom *lv.Domain, _ *lv.DomainQemuMonitorEvent) {
	name, err := ldom.GetName()
	if err != nil {
		return
	}
	d.mu.Lock()
	dom := d.domains[name]
	its := dom != nil && !dom.is(starting)
	d.mu.Unlock()
	if its {
		d.finish(dom, unikernel.End{Reason: unikernel.EndPanicked, Detail: "the guest's panic device reported a crash"})
	}
}

// endOf says what a lifecycle event tells about the end of a machine. ok is
// false for an event after which the machine goes on, or its end is not yet
// clear: a QEMU that is ended by a signal first tells of a shutdown by the
// host.
func endOf(event lv.DomainEventType, detail int) (reason unikernel.EndReason, text string, ok bool) {
	switch event {
	case lv.DOMAIN_EVENT_SHUTDOWN:
		if lv.DomainEventShutdownDetailType(detail) == lv.DOMAIN_EVENT_SHUTDOWN_HOST {
			return 0, "", false
		}
		return unikernel.EndShutdown, "", true
	case lv.DOMAIN_EVENT_CRASHED:
		return unikernel.EndPanicked, "the guest's panic device reported it", true
	case lv.DOMAIN_EVENT_STOPPED:
	default:
		return 0, "", false
	}
	switch lv.DomainEventStoppedDetailType(detail) {
	case lv.DOMAIN_EVENT_STOPPED_SHUTDOWN:
		return unikernel.EndShutdown, "", true
	case lv.DOMAIN_EVENT_STOPPED_DESTROYED:
		return unikernel.EndDestroyed, "", true
	case lv.DOMAIN_EVENT_STOPPED_CRASHED:
		return unikernel.EndPanicked, "libvirt says it crashed", true
	case lv.DOMAIN_EVENT_STOPPED_FAILED:
		return unikernel.EndFailed, "libvirt lost QEMU", true
	}
	return unikernel.EndUnknown, fmt.Sprintf("libvirt's event STOPPED, detail %d", detail), true
}

const (
	// askTimeout bounds the question whether there is a machine, and in what state.
	askTimeout = 5 * time.Second
	// eventTimeout is how long the event of an end may be later than the end.
	eventTimeout = 2 * time.Second
)

// inspect finds out whether the machine has ended when no event told: QEMU's
// process ended (with this status), or events may have been missed. A machine
// whose QEMU lives is never said to have ended, whatever libvirt knows of it,
// unless libvirt says itself that the guest has shut down.
func (d *Driver) inspect(dom *domain, status string) {
	if dom.over() {
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, askTimeout)
	defer cancel()
	state, err := call(ctx, d, func(c *lv.Connect) (stateOf, error) { return ask(c, dom.name) })
	if d.ctx.Err() != nil {
		return
	}
	if err == nil {
		if reason, ok := state.end(); ok {
			d.finish(dom, unikernel.End{Reason: reason, Detail: status})
			return
		}
	}
	select {
	case <-dom.gone:
	default:
		return
	}
	reason := unikernel.EndUnknown
	if err == nil {
		// libvirt has not seen yet that QEMU has ended, or has just removed the
		// machine: the event, which tells more, is under way.
		select {
		case <-dom.ended:
			return
		case <-time.After(eventTimeout):
		case <-d.ctx.Done():
			return
		}
		if !state.absent {
			reason = unikernel.EndFailed
		}
	}
	if status == "" {
		status = "QEMU ended"
	}
	if err != nil {
		status += " while libvirt was away"
	}
	d.finish(dom, unikernel.End{Reason: reason, Detail: status})
}

// stateOf is libvirt's view of a domain.
type stateOf struct {
	absent bool
	state  lv.DomainState
	reason int
}

func ask(c *lv.Connect, name string) (stateOf, error) {
	dom, err := c.LookupDomainByName(name)
	if code(err) == lv.ERR_NO_DOMAIN {
		return stateOf{absent: true}, nil
	}
	if err != nil {
		return stateOf{}, wrap(err, "find it")
	}
	defer dom.Free()
	state, reason, err := dom.GetState()
	if code(err) == lv.ERR_NO_DOMAIN {
		return stateOf{absent: true}, nil
	}
	return stateOf{state: state, reason: reason}, wrap(err, "its state")
}

// end says how a machine in this state ended, if libvirt knows that it did.
func (s stateOf) end() (unikernel.EndReason, bool) {
	switch {
	case s.absent:
		return 0, false
	case s.state == lv.DOMAIN_SHUTDOWN:
		return unikernel.EndShutdown, true
	case s.state == lv.DOMAIN_CRASHED:
		return unikernel.EndPanicked, true
	case s.state != lv.DOMAIN_SHUTOFF:
		return 0, false
	}
	switch lv.DomainShutoffReason(s.reason) {
	case lv.DOMAIN_SHUTOFF_SHUTDOWN:
		return unikernel.EndShutdown, true
	case lv.DOMAIN_SHUTOFF_DESTROYED:
		return unikernel.EndDestroyed, true
	case lv.DOMAIN_SHUTOFF_CRASHED, lv.DOMAIN_SHUTOFF_FAILED:
		return unikernel.EndFailed, true
	}
	return unikernel.EndUnknown, true
}
