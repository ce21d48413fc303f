package libvirt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/unikernel"
)

// DefaultCapsCache is where embedded drivers share what they found out about
// QEMU.
const DefaultCapsCache = "/var/lib/uni/libvirt/cache"

// Options say where domains run and how.
type Options struct {
	// URI is qemu:///embed?root=DIRECTORY, qemu:///embed (EmbedRoot then says
	// where) or qemu:///system. Empty is DefaultURI.
	URI string
	// Accel is AccelAuto, AccelKVM or AccelTCG. Empty is AccelAuto.
	Accel string
	// EmbedRoot is the embedded driver's directory, one for each process. It is
	// made if it is missing; the directories above it must be searchable for
	// QEMU's user.
	EmbedRoot string
	// CapsCache is where embedded drivers share what they found out about
	// QEMU. Empty is DefaultCapsCache.
	CapsCache string
	// User is the user that every QEMU runs as, a name or a number. Empty gives
	// each machine a user and group of its own; where there is no user of the
	// distribution's for QEMU, whose group is used where there are no access
	// lists, or KVM's device can be opened to neither, root.
	User string
	// Identities is where the host's machines say which users are theirs. Empty
	// is DefaultIdentities.
	Identities string
	// Shared are the directories of files that several machines read. Where one is
	// on a file system without access lists, the machines have one group.
	Shared []string
	// Strict refuses machines whose QEMU would have the user of others, or could
	// name the host's files. Without it the log says so.
	Strict bool
	// Within runs a function on a thread inside the network namespace at a
	// path. The thread ends with it. With it the embedded driver starts machines in theirs; nil, and
	// every other driver, starts them in the host's.
	Within func(path string, f func() error) error
	// Filter returns a program for seccomp(2), behind which the embedded driver starts
	// QEMU, beside QEMU's own; what libvirt does until then it must let pass. May be nil.
	Filter func() ([]byte, error)
	// Log gets what an operator should know and is no error of a call. May be nil.
	Log func(format string, args ...any)
}

// identities is the directory, "" where this process cannot run QEMU as another
// user.
func (o Options) identities() string {
	switch {
	case os.Geteuid() != 0:
		return ""
	case o.Identities != "":
		return o.Identities
	}
	return DefaultIdentities
}

// Driver runs machines as libvirt domains. Its methods may be called from many
// goroutines. A call that is blocked in libvirt returns when its context ends, which the caller
// bounds for Resume, Pause and PowerButton: how long a machine may take for them is
// the caller's to say. The other calls are bounded here.
type Driver struct {
	target  target
	within  func(path string, f func() error) error // nil: not possible
	filter  func() ([]byte, error)                  // nil: none
	caps    string
	host    Host
	account account
	// apart says that machines have users of their own, and if the account has
	// access lists groups too; identities is where they are written down.
	apart      bool
	identities string
	strict     bool
	unconfined sync.Once // that it is so was logged
	log        func(format string, args ...any)
	// document turns a machine into a domain, find takes hold of its QEMU, enclose
	// takes the host's files from that. Only tests change them.
	document func(unikernel.Machine, Host) (*libvirtxml.Domain, error)
	find     func(name string) *process
	enclose  func(pid int, files []confine.File) error

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines in or waiting for libvirt

	mu      sync.Mutex // guards what follows
	closed  bool
	session *session // nil while the daemon is away
	// retrying says that a goroutine is at reconnecting.
	retrying bool
	domains  map[string]*domain
}

// session is one connection, closed when the last who uses it is done.
type session struct {
	conn  *lv.Connect
	users int // guarded by Driver.mu
}

// keepAlive finds a daemon that hangs: it is asked every 5 seconds, and the
// connection is given up after 4 questions without an answer.
const (
	keepAliveSeconds = 5
	keepAliveCount   = 4
)

// Open connects to libvirt. The first start of an embedded driver with an empty
// cache probes QEMU for seconds, see Warm. It returns unikernel.ErrInvalid for
// options that are wrong and unikernel.ErrUnavailable when libvirt is not there,
// does not answer within openTimeout, or KVM is asked for and does not work.
func Open(ctx context.Context, opts Options) (*Driver, error) {
	t, err := parseTarget(opts.URI, opts.EmbedRoot)
	if err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = func(string, ...any) {}
	}
	host, err := facts(opts, log)
	if err != nil {
		return nil, err
	}
	user, err := qemuAccount(opts.User, host.KVM, log)
	if err != nil {
		return nil, err
	}
	host.UID, host.GID = user.uid, user.gid
	d := newDriver(t, log)
	d.host, d.account, d.identities = host, user, opts.identities()
	d.apart = opts.User == "" && user.uid != 0 && d.identities != ""
	if d.apart {
		err := hasLists(append(opts.Shared, d.identities), host.KVM)
		if d.account.lists = err == nil; err != nil {
			log("the QEMUs of all machines have the group %d, by which they read what machines share: %v", user.gid, err)
		}
	}
	if d.strict = opts.Strict; d.strict && !d.apart {
		return nil, fmt.Errorf("%w: machines cannot have users of their own (see the log), and isolation is strict", unikernel.ErrUnavailable)
	}
	if t.embedded() {
		d.within, d.filter = opts.Within, opts.Filter
	}
	if d.caps = opts.CapsCache; d.caps == "" {
		d.caps = DefaultCapsCache
	}
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	trim()
	return d, nil
}

func newDriver(t target, log func(string, ...any)) *Driver {
	d := &Driver{target: t, log: log, document: Domain, enclose: confine.To, domains: map[string]*domain{}}
	d.find = func(name string) *process { return findQEMU(t, name) }
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// openTimeout bounds connecting, and waiting for another process that does it first.
// Probing QEMU takes seconds, many on a busy host; a daemon that hangs answers never. It
// is a variable for the tests alone.
var openTimeout = 2 * time.Minute

// begin makes the first connection.
func (d *Driver) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if d.target.embedded() {
		return d.openEmbedded(ctx)
	}
	d.warnOfKVMDevice()
	return d.open(ctx)
}

// openEmbedded starts libvirt's driver in this process. When it fails, nothing is left
// of its root, for which nobody else looks.
func (d *Driver) openEmbedded(ctx context.Context) (err error) {
	unlock, err := lockCaps(ctx, d.caps)
	if err != nil {
		return fmt.Errorf("embedded libvirt: %w", err)
	}
	defer unlock()
	if err := claimEmbed(d.target.root); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeEmbed(d.target.root))
		}
	}()
	if err := prepareEmbed(d.target.root, d.caps, d.apart); err != nil {
		yieldEmbed()
		return fmt.Errorf("embedded libvirt: %w", err)
	}
	restore := logTo(filepath.Join(d.target.root, "log/libvirt.log"))
	err = d.open(ctx)
	if err == nil && !capsKnown(d.caps) {
		err = d.probe(ctx)
	}
	restore()
	if err != nil {
		yieldEmbed()
		return err
	}
	// QEMU is started by a child that ends at once. With this bit it becomes
	// our child, is reaped when it ends, and its status is known.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		d.log("QEMU's exit status will not be known: %v", err)
	}
	return nil
}

// probe has libvirt look at every QEMU there is, as else the first start would, and
// shares what it finds out. It reads what is known of those that have not changed, which
// takes it 30 ms of a processor: a start needs to know of one.
func (d *Driver) probe(ctx context.Context) error {
	defer reapProbes()() // someone may have made us a subreaper before
	err := d.do(ctx, func(c *lv.Connect) error {
		_, err := c.GetCapabilities()
		return wrap(err, "what QEMU can do")
	})
	if err != nil {
		return err
	}
	d.shareCaps()
	return nil
}

// shareCaps lets other drivers know what this one's libvirt has found out about QEMU.
func (d *Driver) shareCaps() {
	if err := copyCaps(filepath.Join(d.target.root, capsDir), d.caps); err != nil {
		d.log("libvirt's knowledge of QEMU is not shared: %v", err)
	}
}

// warnOfKVMDevice names a cause of starts that take a minute: a libvirtd that
// runs QEMU as a user to whom /dev/kvm is closed probes QEMU again for each
// call. udev opens the device to the group kvm; where no udev runs it is root's.
func (d *Driver) warnOfKVMDevice() {
	if _, err := os.Stat(kvm.Device); err == nil && !d.account.allowed(kvm.Device, unix.R_OK|unix.W_OK) {
		d.log("%s is closed to QEMU's user %s, and libvirtd probes QEMU again at every start: chgrp kvm %s; chmod 660 %s",
			kvm.Device, d.account.name, kvm.Device, kvm.Device)
	}
}

// logTo sends libvirt's warnings to a file until restore: libvirt reads the
// variable once, when it is used first. Else they would go to standard error.
func logTo(file string) (restore func()) {
	const name = "LIBVIRT_LOG_OUTPUTS"
	if _, set := os.LookupEnv(name); set {
		return func() {}
	}
	os.Setenv(name, "3:file:"+file)
	return func() { os.Unsetenv(name) }
}

// open connects, and learns libvirt's version.
func (d *Driver) open(ctx context.Context) error {
	if err := load(libraries, dlopen); err != nil {
		return err
	}
	if err := loop.acquire(); err != nil {
		return err
	}
	s, err := d.connect(ctx)
	if err != nil {
		loop.release()
		return err
	}
	d.session = s
	d.host.Libvirt, err = call(ctx, d, func(c *lv.Connect) (uint32, error) {
		v, err := c.GetLibVersion()
		return v, wrap(err, "libvirt's version")
	})
	if err == nil {
		err = recent(d.host.Libvirt)
	}
	if err != nil {
		return errors.Join(err, d.Close())
	}
	return nil
}

// dial opens one connection. An embedded driver starts with that.
func (d *Driver) dial() (conn *lv.Connect, err error) {
	if !d.target.embedded() {
		return lv.NewConnect(d.target.uri)
	}
	err = onOneCPU(func() error {
		conn, err = lv.NewConnect(d.target.uri)
		return err
	})
	return conn, err
}

// connect makes a session, and leaves one that does not come to be in time.
func (d *Driver) connect(ctx context.Context) (*session, error) {
	type result struct {
		s   *session
		err error
	}
	done := make(chan result)
	go func() {
		s, err := d.newSession()
		select {
		case done <- result{s, err}:
		case <-ctx.Done(): // nobody waits for it any more
			if err == nil {
				s.conn.Close()
			}
		}
	}()
	select {
	case r := <-done:
		return r.s, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to %s: %w: it does not answer: %w", d.target.uri, unikernel.ErrUnavailable, ctx.Err())
	}
}

// newSession opens one connection and asks for its events. The embedded driver
// has no daemon that could go away.
func (d *Driver) newSession() (*session, error) {
	conn, err := d.dial()
	if err != nil {
		return nil, d.unavailable(err)
	}
	s := &session{conn: conn, users: 1}
	if _, err := conn.DomainEventLifecycleRegister(nil, d.onLifecycle); err != nil {
		conn.Close()
		return nil, wrap(err, "ask %s for events", d.target.uri)
	}
	for _, name := range crashEvents {
		if _, err := conn.DomainQemuMonitorEventRegister(nil, name, d.onCrash, 0); err != nil {
			d.log("a guest that crashes may seem to have shut down, since there is no event %s: %v", name, err)
		}
	}
	if !d.target.daemon {
		return s, nil
	}
	err = conn.RegisterCloseCallback(func(*lv.Connect, lv.ConnectCloseReason) { d.lost(s) })
	if err == nil {
		err = conn.SetKeepAlive(keepAliveSeconds, keepAliveCount)
	}
	if err != nil {
		conn.Close()
		return nil, wrap(err, "watch the connection to %s", d.target.uri)
	}
	return s, nil
}

// unavailable explains why there is no connection, and what to do about it.
func (d *Driver) unavailable(err error) error {
	text := err.Error()
	var e lv.Error
	if errors.As(err, &e) {
		text = e.Message
	}
	hint := "start libvirtd (systemctl start libvirtd; without systemd: virtlogd -d, libvirtd -d), or use " + DefaultURI + " which needs no daemon"
	if d.target.embedded() {
		hint = "it needs libvirt's QEMU driver, and the user of QEMU it is built for, on Debian those of the package libvirt-daemon-system; another process may have this directory open"
	}
	return fmt.Errorf("connect to %s: %w: %s (%s)", d.target.uri, unikernel.ErrUnavailable, text, hint)
}

// Emulated says that the processor is emulated because KVM is not used.
func (d *Driver) Emulated() bool { return !d.host.KVM }

// InNetNS says that machines start in their Machine.NetNS.
func (d *Driver) InNetNS() bool { return d.within != nil }

// Host returns the facts that domain documents are written from.
func (d *Driver) Host() Host { return d.host }

// closeTimeout bounds how long Close waits for calls that libvirt blocks.
const closeTimeout = 10 * time.Second

// Close ends the connection. Machines run on. Calls and Waits that are under
// way end with unikernel.ErrUnavailable.
//
// An embedded driver without machines leaves nothing below its root. libvirt,
// which may be asleep over a machine that has ended, writes there once more when
// it wakes: Close waits for that, at most forgetTimeout. Such a driver cannot be
// opened again by this process.
func (d *Driver) Close() error {
	if d.target.embedded() {
		d.awaitCleared()
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	s := d.session
	d.session = nil
	for _, dom := range d.domains {
		dom.letGo()
	}
	d.mu.Unlock()
	d.cancel()
	if d.target.embedded() && !d.hasMachines() {
		return removeEmbed(d.target.root)
	}
	if s != nil {
		d.release(s)
	}
	if err := d.settle(); err != nil {
		return err
	}
	loop.release()
	if d.target.embedded() {
		yieldEmbed()
	}
	return nil
}

// forgetTimeout bounds waiting for libvirt to forget machines that have ended.
// It sleeps 200 ms at a time (virProcessKillPainfully) while their processes
// are not reaped.
const forgetTimeout = time.Second

// awaitCleared returns when libvirt was told of the end of all machines that
// have ended.
func (d *Driver) awaitCleared() {
	d.mu.Lock()
	list := slices.DeleteFunc(slices.Collect(maps.Values(d.domains)), func(dom *domain) bool { return !dom.is(clearing) })
	d.mu.Unlock()
	timeout := time.After(forgetTimeout)
	for _, dom := range list {
		select {
		case <-dom.cleared:
		case <-timeout:
			return
		}
	}
}

// settle waits for the driver's goroutines.
func (d *Driver) settle() error {
	done := make(chan struct{})
	go func() { d.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(closeTimeout):
		return fmt.Errorf("close %s: %w: libvirt did not return from a call within %v", d.target.uri, unikernel.ErrUnavailable, closeTimeout)
	}
}
