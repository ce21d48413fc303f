package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
)

// domain is what the driver knows of one machine. The fields up to the first
// gap never change.
type domain struct {
	name    string
	sockets []string
	// ended is closed when end is set, gone when QEMU's process has ended.
	ended, gone chan struct{}

	// Guarded by Driver.mu:
	end        unikernel.End
	armed      bool // events are of this domain, not of one before it
	destroying bool
	id         int // libvirt's, -1 unknown
	vm         *process
	helpers    []*process
}

func newDomain(name string) *domain {
	return &domain{name: name, id: -1, ended: make(chan struct{}), gone: make(chan struct{})}
}

// letGo ends the watching of the domain's processes.
func (dom *domain) letGo() {
	if dom.vm != nil {
		dom.vm.close()
	}
	for _, h := range dom.helpers {
		h.close()
	}
}

// over says whether the machine has ended.
func (dom *domain) over() bool {
	select {
	case <-dom.ended:
		return true
	default:
		return false
	}
}

// Create starts the machine's processes with its CPUs paused. The machine is
// transient: it is nowhere but in the running libvirt. unikernel.ErrInvalid
// says that the machine cannot be described or its files are closed to QEMU's
// user, unikernel.ErrNotFound that a file is missing, fs.ErrExist that there
// is a machine of this name.
func (d *Driver) Create(ctx context.Context, m unikernel.Machine) (unikernel.Pids, error) {
	fail := func(err error) (unikernel.Pids, error) {
		return unikernel.Pids{}, fmt.Errorf("create machine %s: %w", m.Name, err)
	}
	if err := grant(m, d.account); err != nil {
		return fail(err)
	}
	host := d.host
	host.MultiQueue = multiQueue(m.NICs)
	doc, err := d.document(m, host)
	if err != nil {
		return fail(err)
	}
	text, err := doc.Marshal()
	if err != nil {
		return fail(err)
	}
	dom, err := d.add(m)
	if err != nil {
		return fail(err)
	}
	id, err := call(ctx, d, func(c *lv.Connect) (int, error) {
		if d.target.embedded() {
			defer reapProbes()()
		}
		return start(ctx, c, text)
	})
	if err == nil {
		err = d.watch(dom, id)
	}
	if err != nil {
		d.forget(dom)
		return fail(err)
	}
	return d.pids(dom), nil
}

// start creates the domain. A domain whose creator has left is not kept.
func start(ctx context.Context, c *lv.Connect, text string) (int, error) {
	dom, err := c.DomainCreateXML(text, lv.DOMAIN_START_PAUSED)
	if err != nil {
		var e lv.Error
		if errors.As(err, &e) && (e.Code == lv.ERR_OPERATION_FAILED || e.Code == lv.ERR_OPERATION_INVALID || e.Code == lv.ERR_DOM_EXIST) {
			return -1, fmt.Errorf("%w: %s", fs.ErrExist, e.Message)
		}
		return -1, wrap(err, "start QEMU")
	}
	defer dom.Free()
	if ctx.Err() != nil {
		return -1, errors.Join(ctx.Err(), wrap(dom.Destroy(), "destroy it again"))
	}
	id, err := dom.GetID()
	return int(id), wrap(err, "domain's number")
}

// add makes the record of a machine, before its first event can arrive.
func (d *Driver) add(m unikernel.Machine) (*domain, error) {
	dom := newDomain(m.Name)
	for _, c := range m.Channels {
		dom.sockets = append(dom.sockets, c.Socket)
	}
	if m.Console != "" {
		dom.sockets = append(dom.sockets, m.Console)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.domains[m.Name]; old != nil && !old.over() {
		return nil, fmt.Errorf("%w: it runs", fs.ErrExist)
	}
	d.domains[m.Name] = dom
	return dom, nil
}

// forget removes the record of a machine that did not come to be.
func (d *Driver) forget(dom *domain) {
	d.mu.Lock()
	if d.domains[dom.name] == dom {
		delete(d.domains, dom.name)
	}
	d.mu.Unlock()
	d.finish(dom, unikernel.EndFailed, "it did not start")
	dom.letGo()
	d.sweep(dom)
}

// watch takes hold of the domain's processes and waits for their ends.
func (d *Driver) watch(dom *domain, id int) error {
	vm := findQEMU(d.target, dom.name)
	if vm == nil {
		return fmt.Errorf("%w: QEMU ended at once", unikernel.ErrUnavailable)
	}
	helpers := findHelpers(d.target, id)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		vm.close()
		return fmt.Errorf("%w: the connection to libvirt is closed", unikernel.ErrUnavailable)
	}
	dom.id, dom.vm, dom.helpers, dom.armed = id, vm, helpers, true
	d.work.Add(1 + len(helpers))
	go func() {
		defer d.work.Done()
		status, err := vm.wait()
		if err != nil {
			return // Close
		}
		close(dom.gone)
		d.inspect(dom, status)
	}()
	for _, h := range helpers {
		go func() { // reaps it
			defer d.work.Done()
			_, _ = h.wait()
		}()
	}
	return nil
}

func (d *Driver) pids(dom *domain) unikernel.Pids {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := unikernel.Pids{VM: dom.vm.pid}
	for _, h := range dom.helpers {
		p.Helpers = append(p.Helpers, h.pid)
	}
	return p
}

// Resume lets the machine's CPUs run.
func (d *Driver) Resume(ctx context.Context, name string) error {
	return d.each(ctx, name, "resume", (*lv.Domain).Resume)
}

// Pause stops the machine's CPUs.
func (d *Driver) Pause(ctx context.Context, name string) error {
	return d.each(ctx, name, "pause", (*lv.Domain).Suspend)
}

// PowerButton presses the machine's ACPI power button. What the guest does
// then is its affair.
func (d *Driver) PowerButton(ctx context.Context, name string) error {
	return d.each(ctx, name, "press the power button of", func(dom *lv.Domain) error {
		return dom.ShutdownFlags(lv.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
	})
}

// each does one thing to a running machine; one that does not run is
// unikernel.ErrNotFound.
func (d *Driver) each(ctx context.Context, name, what string, f func(*lv.Domain) error) error {
	return d.do(ctx, func(c *lv.Connect) error {
		dom, err := c.LookupDomainByName(name)
		if err != nil {
			return wrap(err, "%s machine %s", what, name)
		}
		defer dom.Free()
		err = f(dom)
		if code(err) == lv.ERR_OPERATION_INVALID {
			if active, aerr := dom.IsActive(); aerr == nil && !active {
				return fmt.Errorf("%s machine %s: %w: it does not run", what, name, unikernel.ErrNotFound)
			}
		}
		return wrap(err, "%s machine %s", what, name)
	})
}

const (
	// patience is how long QEMU may take to end by itself when it is told to;
	// then it is killed.
	patience = 5 * time.Second
	// destroyTimeout bounds Destroy when its context has no end.
	destroyTimeout = 30 * time.Second
)

// Destroy ends the machine and returns when its processes and sockets are
// gone. A machine that is not there is not an error. Without the daemon it
// kills QEMU itself.
func (d *Driver) Destroy(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	d.mu.Lock()
	dom := d.domains[name]
	if dom != nil {
		dom.destroying = true
	}
	d.mu.Unlock()
	id, vm := -1, (*process)(nil)
	if dom == nil {
		vm = findQEMU(d.target, name)
	} else if d.mu.Lock(); true {
		id, vm = dom.id, dom.vm
		d.mu.Unlock()
	}
	if vm != nil {
		defer impatient(vm, patience)()
	}
	err := d.do(ctx, func(c *lv.Connect) error { return destroy(c, name) })
	if errors.Is(err, unikernel.ErrUnavailable) && ctx.Err() == nil {
		d.log("machine %s is killed without libvirt: %v", name, err)
		err = nil
		if vm != nil {
			err = vm.signal(9)
		}
	}
	if err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	if err := d.buried(ctx, dom, vm, id); err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	if dom != nil {
		d.finish(dom, unikernel.EndDestroyed, "")
		d.sweep(dom)
	}
	return nil
}

// impatient kills the process after a time unless it is stopped.
func impatient(p *process, after time.Duration) (stop func()) {
	timer := time.AfterFunc(after, func() { _ = p.signal(9) })
	return func() { timer.Stop() }
}

// destroy has libvirt end the domain. One that is gone, or goes meanwhile, is
// fine.
func destroy(c *lv.Connect, name string) error {
	dom, err := c.LookupDomainByName(name)
	if code(err) == lv.ERR_NO_DOMAIN {
		return nil
	}
	if err != nil {
		return wrap(err, "find it")
	}
	defer dom.Free()
	err = dom.Destroy()
	if c := code(err); c == lv.ERR_NO_DOMAIN || c == lv.ERR_OPERATION_INVALID {
		return nil
	}
	return wrap(err, "end it")
}

// buried waits until the machine's processes have ended.
func (d *Driver) buried(ctx context.Context, dom *domain, vm *process, id int) error {
	if dom != nil && vm != nil {
		select {
		case <-dom.gone:
		case <-ctx.Done():
			return fmt.Errorf("QEMU, process %d, does not end: %w", vm.pid, ctx.Err())
		}
	} else if vm != nil {
		defer vm.close()
		if _, err := vm.waitContext(ctx); err != nil {
			return fmt.Errorf("QEMU, process %d, does not end: %w", vm.pid, err)
		}
	}
	if id < 0 {
		return nil
	}
	for _, h := range findHelpers(d.target, id) {
		stop := impatient(h, time.Second)
		_, err := h.waitContext(ctx)
		stop()
		h.close()
		if err != nil {
			return fmt.Errorf("virtiofsd, process %d, does not end: %w", h.pid, err)
		}
	}
	return nil
}

// sweep removes the files that a machine leaves behind: its sockets and logs.
func (d *Driver) sweep(dom *domain) {
	logs, _ := filepath.Glob(filepath.Join(d.target.logs, dom.name+"-fs*-virtiofsd.log"))
	for _, path := range append(append(logs, filepath.Join(d.target.logs, dom.name+".log")), dom.sockets...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log("after machine %s: %v", dom.name, err)
		}
	}
}
