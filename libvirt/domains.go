package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/thread"
)

// domain is what the driver knows of one machine. The fields up to the first
// gap never change.
type domain struct {
	name string
	// sockets are the machine's, and other files that go with it.
	sockets []string
	// debugExit says that the guest may end the machine with a status.
	debugExit bool
	// halts says that the guest has ended when all processors are halted for good.
	halts bool
	// doubtful says that libvirt may yet start QEMU, since nobody waited for it.
	// Its user stays taken until the machine is destroyed by name.
	doubtful bool
	// For who waits: ended is closed when end is set, gone when QEMU's process has
	// ended, helpless when its helpers have, cleared with the phase of that name.
	ended, gone, helpless, cleared chan struct{}
	// plugging holds a value while a disk comes or goes.
	plugging chan struct{}

	// Guarded by Driver.mu:
	phase   phase
	end     unikernel.End // in phase told, what the event said
	vm      *process
	helpers []*process
}

func newDomain(name string) *domain {
	return &domain{
		name: name, ended: make(chan struct{}), gone: make(chan struct{}), helpless: make(chan struct{}), cleared: make(chan struct{}),
		plugging: make(chan struct{}, 1),
	}
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

// createTimeout bounds Create, which takes a fraction of a second on a host that is
// not busy. It is a variable for the tests alone.
var createTimeout = time.Minute

// Create starts the machine's processes with its CPUs paused. The machine is
// transient: it is nowhere but in the running libvirt. unikernel.ErrInvalid
// says that the machine cannot be described or its files are closed to QEMU's
// user, unikernel.ErrNotFound that a file is missing, fs.ErrExist that there
// is a machine of this name, unikernel.ErrUnavailable that libvirt has not done it
// within createTimeout.
func (d *Driver) Create(ctx context.Context, m unikernel.Machine) (unikernel.Pids, error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	fail := func(err error) (unikernel.Pids, error) {
		return unikernel.Pids{}, fmt.Errorf("create machine %s: %w", m.Name, err)
	}
	dom, err := d.add(ctx, m)
	if err != nil {
		return fail(err)
	}
	user, text, err := d.prepare(m)
	if err != nil {
		d.unhide(m)
		d.forget(dom)
		return fail(err)
	}
	var helper *process
	if m.Share != nil {
		if helper, err = startVirtiofsd(m.Share, helperName(d.target, m.Name), user); err != nil {
			d.unhide(m)
			d.forget(dom)
			return fail(fmt.Errorf("share %s: %w", m.Share.Source, err))
		}
	}
	err = d.launch(ctx, m, text)
	d.unhide(m)
	if err == nil {
		err = d.watch(dom, family(helper))
	}
	if err == nil {
		d.boundLogs(dom, d.ownLogs(m))
	}
	if err != nil {
		dom.doubtful = ctx.Err() != nil
		if helper != nil {
			if said := stopVirtiofsd(helper, shareLog(m.Share)); said != "" {
				err = fmt.Errorf("%w (virtiofsd: %s)", err, said)
			}
		}
		d.forget(dom)
		return fail(err)
	}
	pids := d.pids(dom)
	err = errors.Join(d.confine(pids.VM, m.Disks), d.closeReads(m.Name))
	if err == nil && m.Saved != "" {
		err = d.load(ctx, m.Name, m.Saved)
	}
	if err != nil {
		return fail(errors.Join(err, d.Destroy(context.WithoutCancel(ctx), m.Name)))
	}
	return pids, nil
}

// prepare finds the machine a user, opens its files to it and writes its document.
func (d *Driver) prepare(m unikernel.Machine) (account, string, error) {
	user, err := d.admit(m)
	if err != nil {
		return user, "", err
	}
	if err := d.admitTo(m, user); err != nil {
		return user, "", err
	}
	host := d.host
	host.UID, host.GID = user.uid, user.gid
	if host.CmdlineFile, err = d.hide(m, user); err != nil {
		return user, "", err
	}
	doc, err := d.document(m, host)
	if err != nil {
		return user, "", err
	}
	text, err := doc.Marshal()
	return user, text, err
}

// admit returns the user that a machine's QEMU runs as: one of its own, or the
// driver's.
func (d *Driver) admit(m unikernel.Machine) (account, error) {
	if !d.apart {
		return d.account, nil
	}
	id, err := takeIdentity(d.identities, d.target.owner(m.Name), writable(m), d.reads(m))
	if err != nil {
		return account{}, fmt.Errorf("a user for QEMU: %w", err)
	}
	return own(d.account, id.uid), nil
}

// launch starts QEMU where the machine's taps are.
func (d *Driver) launch(ctx context.Context, m unikernel.Machine, text string) error {
	return d.do(ctx, func(c *lv.Connect) error {
		if ctx.Err() != nil { // nobody waits any more
			return ctx.Err()
		}
		if d.target.embedded() {
			defer reapProbes()()
			defer d.shareCaps() // QEMU may be another than was known
		}
		begin := func() error {
			if err := tapsThere(m.NICs); err != nil {
				return err
			}
			return awaitRemoval(ctx, func() error { return start(ctx, c, text) })
		}
		if !d.target.embedded() {
			return begin()
		}
		behind := func() error {
			// The thread is spent, so it may leave the host's message queues and
			// System V memory too. Where it may not, the user is the wall.
			_ = unix.Unshare(unix.CLONE_NEWIPC)
			if err := d.loadFilter(); err != nil {
				return err
			}
			return begin()
		}
		if d.within == nil || m.NetNS == "" {
			return thread.Discard(behind)
		}
		return d.within(m.NetNS, behind)
	})
}

// loadFilter puts the calling thread, and all that it starts, behind the driver's
// filter. Without CAP_SYS_ADMIN that would take new privileges from libvirt's child
// too early: QEMU's own filter is then the only one.
func (d *Driver) loadFilter() error {
	if d.filter == nil {
		return nil
	}
	program, err := d.filter()
	if err != nil {
		return fmt.Errorf("filter of system calls: %w", err)
	}
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	f := unix.SockFprog{Len: uint16(len(program) / size), Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f)))
	if errno == unix.EACCES {
		d.log("QEMU has its own filter of system calls only: %v", errno)
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("filter of system calls: %w", errno)
	}
	return nil
}

// tapsThere checks for the taps in the thread's network namespace: libvirt
// would make those that are missing.
func tapsThere(nics []unikernel.NIC) error {
	for _, n := range nics {
		if _, err := net.InterfaceByName(n.Tap); err != nil {
			return fmt.Errorf("%w: there is no tap device %q in the machine's network namespace", unikernel.ErrNotFound, n.Tap)
		}
	}
	return nil
}

// removalTimeout bounds waiting for libvirt to be done with an earlier machine
// of the name, removalLook is the pause between two looks.
const (
	removalTimeout = 10 * time.Second
	removalLook    = 20 * time.Millisecond
)

// errLeaving says that libvirt is just removing a domain of the name.
var errLeaving = fmt.Errorf("%w: libvirt is still removing it", fs.ErrExist)

// awaitRemoval starts a domain, and waits for one of its name that libvirt is
// just removing: neither the end of QEMU nor that libvirt was told of it says
// that a worker of libvirt's is done.
func awaitRemoval(ctx context.Context, start func() error) error {
	ctx, cancel := context.WithTimeout(ctx, removalTimeout)
	defer cancel()
	for {
		err := start()
		if !errors.Is(err, errLeaving) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(removalLook):
		}
	}
}

// start creates the domain. A domain whose creator has left is not kept.
func start(ctx context.Context, c *lv.Connect, text string) error {
	dom, err := c.DomainCreateXML(text, lv.DOMAIN_START_PAUSED)
	if err != nil {
		return refused(err)
	}
	defer dom.Free()
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), wrap(dom.Destroy(), "destroy it again"))
	}
	return nil
}

// refused explains why a domain does not start. libvirt's list of domains
// (conf/virdomainobjlist.c) says with OPERATION_INVALID that one of the name is
// active, and with OPERATION_FAILED that it is being removed. Other parts of
// libvirt have these codes for failures of other kinds.
func refused(err error) error {
	var e lv.Error
	if !errors.As(err, &e) {
		return wrap(err, "start QEMU")
	}
	list := e.Domain == lv.FROM_CONF
	switch {
	case list && e.Code == lv.ERR_OPERATION_FAILED:
		return fmt.Errorf("%w: %s", errLeaving, e.Message)
	case list && e.Code == lv.ERR_OPERATION_INVALID, e.Code == lv.ERR_DOM_EXIST:
		return fmt.Errorf("%w: %s", fs.ErrExist, e.Message)
	}
	return wrap(err, "start QEMU")
}

// add makes the record of a machine, before its first event can arrive. After a
// machine of the same name it waits until libvirt has forgotten that one.
func (d *Driver) add(ctx context.Context, m unikernel.Machine) (*domain, error) {
	dom := newDomain(m.Name)
	dom.debugExit, dom.halts = m.DebugExit, m.Halts
	dom.sockets = shareFiles(m.Share)
	for _, c := range m.Channels {
		dom.sockets = append(dom.sockets, c.Socket)
	}
	if m.Console != "" {
		dom.sockets = append(dom.sockets, m.Console)
	}
	for {
		d.mu.Lock()
		old := d.domains[m.Name]
		if old == nil {
			d.domains[m.Name] = dom
			d.mu.Unlock()
			return dom, nil
		}
		leaving := old.is(clearing, cleared)
		d.mu.Unlock()
		if !leaving {
			return nil, fmt.Errorf("%w: it is not destroyed", fs.ErrExist)
		}
		select {
		case <-old.cleared:
			d.mu.Lock()
			if d.domains[m.Name] == old {
				delete(d.domains, m.Name)
			}
			d.mu.Unlock()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// forget removes the record of a machine that did not come to be.
func (d *Driver) forget(dom *domain) {
	d.mu.Lock()
	if d.domains[dom.name] == dom {
		delete(d.domains, dom.name)
	}
	d.mu.Unlock()
	d.finish(dom, unikernel.End{Reason: unikernel.EndFailed, Detail: "it did not start"})
	dom.letGo()
	d.sweep(dom)
}

// watch takes hold of the domain's QEMU and waits for its end and that of the
// helpers, which are the domain's unless there is an error.
func (d *Driver) watch(dom *domain, helpers []*process) error {
	vm := d.find(dom.name)
	if vm == nil {
		return fmt.Errorf("%w: QEMU ended at once", unikernel.ErrUnavailable)
	}
	monitor := heldMonitor(vm)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = monitor.Close()
		vm.close()
		return fmt.Errorf("%w: the connection to libvirt is closed", unikernel.ErrUnavailable)
	}
	dom.vm, dom.helpers = vm, helpers
	dom.passes(seen)
	if dom.halts {
		d.work.Go(func() { d.watchHalt(dom) })
	}
	d.work.Add(2)
	go func() {
		defer d.work.Done()
		status, err := vm.wait()
		_ = monitor.Close() // libvirt may know; there may be none
		if err != nil {
			return // Close
		}
		d.heed(dom, status)
		close(dom.gone)
		d.inspect(dom, status.text)
	}()
	go func() {
		defer d.work.Done()
		how, err := awaitAll(d.ctx, helpers)
		close(dom.helpless)
		if err == nil && len(helpers) > 0 {
			d.bereave(dom, how)
		}
	}()
	return nil
}

// awaitAll returns when processes have ended, how the first did, or with an error
// after Close.
func awaitAll(ctx context.Context, all []*process) (how string, err error) {
	for i, p := range all {
		status, err := p.wait()
		if err != nil {
			return "", err
		}
		if i == 0 {
			how = status.text
		}
		reapGroup(ctx, p.group)
	}
	return how, nil
}

// bereavedTimeout is how long QEMU may be there without its helpers, which see its
// end sooner than we do.
const bereavedTimeout = 2 * time.Second

// bereave ends a machine whose helpers have ended before it: the kernel of a guest
// waits without end for files of which nobody tells it any more.
func (d *Driver) bereave(dom *domain, how string) {
	timer := time.NewTimer(bereavedTimeout)
	defer timer.Stop()
	select {
	case <-dom.gone:
		return
	case <-dom.ended:
		return
	case <-d.ctx.Done():
		return
	case <-timer.C:
	}
	d.finish(dom, unikernel.End{Reason: unikernel.EndFailed, Detail: strings.TrimSuffix("virtiofsd, by which it shares directories, ended: "+how, ": ")})
	_ = dom.vm.signal(unix.SIGKILL) // it may have ended meanwhile, and Destroy tries again
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
		ended := err != nil && d.hasEnded(name) // libvirt may not know it yet
		if code(err) == lv.ERR_OPERATION_INVALID {
			active, aerr := dom.IsActive()
			ended = ended || aerr == nil && !active
		}
		if ended {
			return fmt.Errorf("%s machine %s: %w: it does not run", what, name, unikernel.ErrNotFound)
		}
		return wrap(err, "%s machine %s", what, name)
	})
}

// hasEnded tells whether a machine is known to have ended.
func (d *Driver) hasEnded(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	dom := d.domains[name]
	return dom != nil && dom.over()
}

// destroyTimeout bounds Destroy when its context has no end.
const destroyTimeout = 30 * time.Second

// Destroy ends the machine as a power cut would and returns when its processes
// and sockets are gone. A machine that is not there is not an error. It works
// without the daemon too. libvirt's own record of the machine may be there for
// a fraction of a second longer; Create and Close wait for that.
func (d *Driver) Destroy(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	dom, vm, helpers := d.condemn(name)
	if dom == nil {
		return d.destroyStranger(ctx, name)
	}
	// libvirt would ask QEMU to end and look for that every 200 ms: too late
	// for a machine that is thrown away.
	if err := bury(ctx, dom, vm, helpers); err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	d.finish(dom, unikernel.End{Reason: unikernel.EndDestroyed})
	d.clear(ctx, dom)
	d.sweep(dom)
	return nil
}

// condemn notes that the machine's end, if it comes now, is Destroy's.
func (d *Driver) condemn(name string) (*domain, *process, []*process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dom := d.domains[name]
	if dom == nil || dom.vm == nil {
		return nil, nil, nil
	}
	dom.passes(condemn)
	return dom, dom.vm, dom.helpers
}

// bury kills QEMU and waits until it and its helpers have ended. virtiofsd ends
// by itself when QEMU does.
func bury(ctx context.Context, dom *domain, vm *process, helpers []*process) error {
	select {
	case <-dom.gone:
	default:
		if err := vm.signal(unix.SIGKILL); err != nil {
			return fmt.Errorf("kill QEMU: %w", err)
		}
	}
	for _, h := range helpers {
		defer impatient(h, time.Second)()
	}
	select {
	case <-dom.gone:
	case <-ctx.Done():
		return fmt.Errorf("QEMU, process %d, does not end: %w", vm.pid, ctx.Err())
	}
	select {
	case <-dom.helpless:
	case <-ctx.Done():
		return fmt.Errorf("virtiofsd does not end: %w", ctx.Err())
	}
	return nil
}

// impatient kills the process after a time unless it is stopped.
func impatient(p *process, after time.Duration) (stop func()) {
	timer := time.AfterFunc(after, func() { _ = p.signal(unix.SIGKILL) })
	return func() { timer.Stop() }
}

// clear has libvirt forget the domain, whose processes have ended, and does
// not wait for it. A daemon that is away finds that out when it starts.
func (d *Driver) clear(ctx context.Context, dom *domain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !dom.passes(clears) {
		return
	}
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		defer d.cleared(dom)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		err := d.do(ctx, func(c *lv.Connect) error { return destroy(c, dom.name) })
		if err != nil && d.ctx.Err() == nil {
			d.log("machine %s has ended, libvirt is not told: %v", dom.name, err)
		}
		d.sweep(dom) // libvirt ends with a line in the log
	}()
}

// cleared notes that libvirt was told.
func (d *Driver) cleared(dom *domain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dom.passes(forgot) {
		close(dom.cleared)
	}
}

// destroyStranger ends a machine that another process started, or nothing.
func (d *Driver) destroyStranger(ctx context.Context, name string) error {
	vm := d.find(name)
	if vm != nil {
		if err := kill(ctx, vm); err != nil {
			return fmt.Errorf("destroy machine %s: %w", name, err)
		}
	}
	if err := killHelpers(ctx, d.target, name); err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	err := d.do(ctx, func(c *lv.Connect) error { return destroy(c, name) })
	if vm != nil && errors.Is(err, unikernel.ErrUnavailable) {
		d.log("machine %s has ended, libvirt is not told: %v", name, err)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("destroy machine %s: %w", name, err)
	}
	d.sweep(newDomain(name))
	return nil
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

// sweep removes what a machine leaves behind: its sockets and logs, and the
// cgroups of a daemon that was killed.
func (d *Driver) sweep(dom *domain) {
	if d.target.daemon {
		removeDaemonCgroups(dom.name)
	}
	if !dom.doubtful {
		if err := returnIdentity(d.identities, d.target.owner(dom.name)); err != nil {
			d.log("after machine %s: %v", dom.name, err)
		}
	}
	for _, path := range append([]string{filepath.Join(d.target.logs, dom.name+".log")}, dom.sockets...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log("after machine %s: %v", dom.name, err)
		}
	}
}
