package libvirt

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	lv "libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"containerd-shim-uni/unikernel"
)

// The tests of this file use test:///default, libvirt's driver without a
// hypervisor. Each connection of a process sees the same domain "test", which
// runs; a process of ours stands in for its QEMU.

// openTest opens a driver on test:///default.
func openTest(t *testing.T) (*Driver, *exec.Cmd) {
	t.Helper()
	qemu := standIn(t, "stand-in")
	d := newDriver(target{uri: "test:///default", state: t.TempDir(), logs: t.TempDir()}, t.Logf)
	d.find = func(string) *process {
		p, err := openProcess(qemu.Process.Pid)
		if err != nil {
			return nil
		}
		return p
	}
	if err := d.open(t.Context()); err != nil {
		t.Skipf("libvirt's test driver: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	restart(t)
	return d, qemu
}

// restart makes the domain "test" run, whatever a test before did to it.
func restart(t *testing.T) {
	t.Helper()
	withDomain(t, func(dom *lv.Domain) error {
		if active, err := dom.IsActive(); err != nil || active {
			return err
		}
		return dom.Create()
	})
}

// withDomain does something to the domain "test" on another connection.
func withDomain(t *testing.T, f func(*lv.Domain) error) {
	t.Helper()
	conn, err := lv.NewConnect("test:///default")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	dom, err := conn.LookupDomainByName("test")
	if err != nil {
		t.Fatal(err)
	}
	defer dom.Free()
	if err := f(dom); err != nil {
		t.Fatal(err)
	}
}

// waiting starts Wait and returns when the driver watches the machine.
func waiting(t *testing.T, d *Driver) <-chan unikernel.End {
	t.Helper()
	if _, err := d.attach(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	ends := make(chan unikernel.End, 1)
	go func() {
		defer close(ends)
		if end, err := d.Wait(t.Context(), "test"); err == nil {
			ends <- end
		}
	}()
	return ends
}

func TestWaitTellsWhy(t *testing.T) {
	tests := []struct {
		name string
		end  func(t *testing.T, d *Driver, qemu *exec.Cmd)
		want unikernel.EndReason
	}{
		{"libvirt tells when QEMU ends", func(t *testing.T, _ *Driver, qemu *exec.Cmd) {
			_ = qemu.Process.Kill()
			withDomain(t, (*lv.Domain).Shutdown)
		}, unikernel.EndShutdown},
		{"someone else destroys it", func(t *testing.T, d *Driver, qemu *exec.Cmd) {
			_ = qemu.Process.Kill()
			<-d.domains["test"].gone
			withDomain(t, (*lv.Domain).Destroy)
		}, unikernel.EndDestroyed},
		{"libvirt tells late that one of the name before ended", func(t *testing.T, d *Driver, qemu *exec.Cmd) {
			withDomain(t, (*lv.Domain).Destroy)
			time.Sleep(100 * time.Millisecond) // what is under way arrives
			if d.domains["test"].over() {
				t.Error("the machine is over, and its QEMU runs")
			}
			restart(t)
			_ = qemu.Process.Kill()
		}, unikernel.EndFailed},
		{"QEMU is killed", func(t *testing.T, _ *Driver, qemu *exec.Cmd) {
			_ = qemu.Process.Kill()
		}, unikernel.EndFailed},
		{"QEMU ends before libvirt tells of it", func(t *testing.T, d *Driver, qemu *exec.Cmd) {
			_ = qemu.Process.Kill()
			<-d.domains["test"].gone
			withDomain(t, (*lv.Domain).Shutdown)
		}, unikernel.EndShutdown},
		{"Destroy", func(t *testing.T, d *Driver, _ *exec.Cmd) {
			if err := d.Destroy(t.Context(), "test"); err != nil {
				t.Error(err)
			}
		}, unikernel.EndDestroyed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, qemu := openTest(t)
			ends := waiting(t, d)
			tt.end(t, d, qemu)
			end, ok := <-ends
			if !ok || end.Reason != tt.want {
				t.Errorf("got %v (%s), want %v", end.Reason, end.Detail, tt.want)
			}
			if end.At.IsZero() {
				t.Error("the end has no time")
			}
		})
	}
}

// A guest ends its QEMU with a status: whatever libvirt tells before that is
// known, and in whatever order, the status counts; without one, libvirt's word.
func TestGuestsStatusCounts(t *testing.T) {
	shutdown, lost := unikernel.End{Reason: unikernel.EndShutdown}, unikernel.End{Reason: unikernel.EndFailed, Detail: "libvirt lost QEMU"}
	exited := exitCode{"exit status 43", 43}
	tests := []struct {
		name          string
		plain         bool // the machine has no such device
		before, after []unikernel.End
		status        exitCode
		want          unikernel.EndReason
		detail        string
	}{
		{name: "QEMU 7", before: []unikernel.End{lost}, status: exited, want: unikernel.EndExited},
		{name: "QEMU 10", before: []unikernel.End{shutdown, lost}, status: exited, want: unikernel.EndExited},
		{name: "the event is late", after: []unikernel.End{shutdown}, status: exited, want: unikernel.EndExited},
		{name: "power-off", before: []unikernel.End{shutdown}, status: exitCode{"exit status 0", 0}, want: unikernel.EndShutdown},
		{name: "power-off, late event", after: []unikernel.End{shutdown}, status: exitCode{"exit status 0", 0}, want: unikernel.EndShutdown},
		{name: "killed", before: []unikernel.End{lost}, status: exitCode{"killed by SIGKILL", -1}, want: unikernel.EndFailed, detail: "killed by SIGKILL"},
		{name: "another's child", before: []unikernel.End{shutdown}, status: unknownCode, want: unikernel.EndShutdown},
		{name: "panic", before: []unikernel.End{{Reason: unikernel.EndPanicked}, shutdown}, status: exitCode{"exit status 0", 0}, want: unikernel.EndPanicked},
		{name: "no device", plain: true, before: []unikernel.End{shutdown}, status: exited, want: unikernel.EndShutdown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDriver(target{}, t.Logf)
			dom := newDomain("test")
			dom.debugExit, dom.phase = !tt.plain, running
			for _, end := range tt.before {
				d.tell(dom, end)
			}
			if status, ok := tt.status.guestStatus(); ok && !tt.plain && dom.over() {
				t.Fatalf("%v is over before its status %d is known", dom.end, status)
			}
			d.heed(dom, tt.status)
			for _, end := range tt.after {
				d.tell(dom, end)
			}
			if !dom.over() || dom.end.Reason != tt.want || dom.end.Status != 0 && dom.end.Status != 21 || !strings.Contains(dom.end.Detail, tt.detail) {
				t.Errorf("over: %v, %+v, want %v", dom.over(), dom.end, tt.want)
			}
			if tt.want == unikernel.EndExited && dom.end.Status != 21 {
				t.Errorf("status %d", dom.end.Status)
			}
		})
	}
}

func TestDestroyEndsQEMU(t *testing.T) {
	d, qemu := openTest(t)
	waiting(t, d)
	for range 2 { // a second time there is nothing to do
		if err := d.Destroy(t.Context(), "test"); err != nil {
			t.Fatal(err)
		}
	}
	if len(arguments(qemu.Process.Pid)) > 0 {
		t.Error("QEMU runs on")
	}
	<-d.domains["test"].cleared
	withDomain(t, func(dom *lv.Domain) error {
		active, err := dom.IsActive()
		if active {
			t.Error("libvirt has not heard of the end")
		}
		return err
	})
}

func TestPauseAndResume(t *testing.T) {
	d, _ := openTest(t)
	state := func() (s lv.DomainState) {
		withDomain(t, func(dom *lv.Domain) (err error) { s, _, err = dom.GetState(); return })
		return s
	}
	if err := d.Pause(t.Context(), "test"); err != nil || state() != lv.DOMAIN_PAUSED {
		t.Errorf("pause: %v, state %v", err, state())
	}
	if err := d.Resume(t.Context(), "test"); err != nil || state() != lv.DOMAIN_RUNNING {
		t.Errorf("resume: %v, state %v", err, state())
	}
}

func TestMachineThatIsNotThere(t *testing.T) {
	d, _ := openTest(t)
	_, wait := d.Wait(t.Context(), "absent")
	for what, err := range map[string]error{
		"pause": d.Pause(t.Context(), "absent"), "resume": d.Resume(t.Context(), "absent"),
		"power button": d.PowerButton(t.Context(), "absent"), "wait": wait,
	} {
		if !errors.Is(err, unikernel.ErrNotFound) || !strings.Contains(err.Error(), "absent") {
			t.Errorf("%s: %v, want ErrNotFound with the name", what, err)
		}
	}
}

func TestWaitEndsWithItsContextAndWithTheDriver(t *testing.T) {
	d, _ := openTest(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := d.Wait(ctx, "test"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { d.Close() })
	if _, err := d.Wait(t.Context(), "test"); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if err := d.Resume(t.Context(), "test"); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("a call after Close: %v, want ErrUnavailable", err)
	}
}

// A call that libvirt blocks returns when its context ends, and the connection
// outlives it until it is done.
func TestBlockedCall(t *testing.T) {
	d, _ := openTest(t)
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	err := d.do(ctx, func(c *lv.Connect) error {
		<-release
		_, err := c.GetHostname()
		return err
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("got %v, want canceled and ErrUnavailable", err)
	}
	close(release)
}

// shorten makes a timeout short for a test.
func shorten(t *testing.T, timeout *time.Duration) {
	t.Helper()
	old := *timeout
	*timeout = 50 * time.Millisecond
	t.Cleanup(func() { *timeout = old })
}

// TestBlockedCreate: a client that waits for ever gets an answer all the same.
func TestBlockedCreate(t *testing.T) {
	d, _ := openTest(t)
	release := make(chan struct{})
	d.target.root = t.TempDir() // only an embedded driver goes into a namespace
	defer func() {
		close(release)
		d.work.Wait()
		d.target.root = ""
	}()
	d.within = func(string, func() error) error { <-release; return nil }
	d.document = func(unikernel.Machine, Host) (*libvirtxml.Domain, error) { return &libvirtxml.Domain{}, nil }
	shorten(t, &createTimeout)
	_, err := d.Create(context.Background(), unikernel.Machine{Name: "m", NetNS: "/n"})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v, want that libvirt does not answer", err)
	}
}

// TestSilentDaemon: a daemon that takes the connection and says nothing keeps
// nobody.
func TestSilentDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // before, nothing ends the connections
	shorten(t, &openTimeout)
	d := newDriver(target{uri: "qemu+unix:///system?socket=" + path, daemon: true, state: t.TempDir(), logs: t.TempDir()}, t.Logf)
	err = d.begin(context.Background())
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v, want that the daemon does not answer", err)
	}
}

func TestLostConnection(t *testing.T) {
	d, qemu := openTest(t)
	ends := waiting(t, d)
	d.mu.Lock()
	old := d.session
	d.mu.Unlock()
	d.lost(old)
	if err := d.Pause(t.Context(), "test"); err != nil {
		t.Fatalf("a call after the loss: %v", err)
	}
	d.mu.Lock()
	if d.session == old {
		t.Error("the session is the old one")
	}
	d.mu.Unlock()
	select {
	case end := <-ends:
		t.Errorf("the machine is said to have ended: %v", end)
	default:
	}
	_ = qemu.Process.Signal(unix.SIGKILL)
	if end := <-ends; end.Reason != unikernel.EndFailed {
		t.Errorf("got %v, want %v", end.Reason, unikernel.EndFailed)
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name string
		opts Options
		want error
		text string
	}{
		{"another scheme", Options{URI: "xen:///system"}, unikernel.ErrInvalid, "xen"},
		{"a remote host", Options{URI: "qemu://host/system"}, unikernel.ErrInvalid, "host"},
		{"the session", Options{URI: "qemu:///session"}, unikernel.ErrInvalid, "session"},
		{"no root", Options{}, unikernel.ErrInvalid, "root"},
		{"relative root", Options{EmbedRoot: "lv"}, unikernel.ErrInvalid, `"lv"`},
		{"slash", Options{EmbedRoot: "/"}, unikernel.ErrInvalid, `"/"`},
		{"long root", Options{EmbedRoot: "/" + strings.Repeat("r", 60)}, unikernel.ErrInvalid, "46 bytes"},
		{"quote in root", Options{EmbedRoot: `/run/a"b`}, unikernel.ErrInvalid, "letters"},
		{"unknown accelerator", Options{EmbedRoot: "/run/x", Accel: "hvf"}, unikernel.ErrInvalid, "hvf"},
		{"unknown user", Options{EmbedRoot: "/run/x", Accel: "tcg", User: "no-such-user"}, unikernel.ErrInvalid, "no-such-user"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Open(t.Context(), tt.opts)
			if err == nil {
				d.Close()
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestDaemonIsNotThere(t *testing.T) {
	if _, err := os.Stat("/run/libvirt/libvirt-sock"); err == nil {
		t.Skip("a libvirtd runs")
	}
	_, err := Open(t.Context(), Options{URI: SystemURI, Accel: AccelTCG})
	if !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "start libvirtd") || !strings.Contains(err.Error(), DefaultURI) {
		t.Errorf("got %v, want ErrUnavailable that says what to do", err)
	}
}

func TestEndOf(t *testing.T) {
	tests := []struct {
		event  lv.DomainEventType
		detail int
		want   unikernel.EndReason
		ok     bool
	}{
		{lv.DOMAIN_EVENT_STARTED, 0, 0, false},
		{lv.DOMAIN_EVENT_SUSPENDED, 0, 0, false},
		{lv.DOMAIN_EVENT_RESUMED, 0, 0, false},
		{lv.DOMAIN_EVENT_SHUTDOWN, int(lv.DOMAIN_EVENT_SHUTDOWN_FINISHED), unikernel.EndShutdown, true},
		{lv.DOMAIN_EVENT_SHUTDOWN, int(lv.DOMAIN_EVENT_SHUTDOWN_GUEST), unikernel.EndShutdown, true},
		{lv.DOMAIN_EVENT_SHUTDOWN, int(lv.DOMAIN_EVENT_SHUTDOWN_HOST), 0, false},
		{lv.DOMAIN_EVENT_CRASHED, int(lv.DOMAIN_EVENT_CRASHED_PANICKED), unikernel.EndPanicked, true},
		{lv.DOMAIN_EVENT_STOPPED, int(lv.DOMAIN_EVENT_STOPPED_SHUTDOWN), unikernel.EndShutdown, true},
		{lv.DOMAIN_EVENT_STOPPED, int(lv.DOMAIN_EVENT_STOPPED_DESTROYED), unikernel.EndDestroyed, true},
		{lv.DOMAIN_EVENT_STOPPED, int(lv.DOMAIN_EVENT_STOPPED_CRASHED), unikernel.EndPanicked, true},
		{lv.DOMAIN_EVENT_STOPPED, int(lv.DOMAIN_EVENT_STOPPED_FAILED), unikernel.EndFailed, true},
		{lv.DOMAIN_EVENT_STOPPED, int(lv.DOMAIN_EVENT_STOPPED_MIGRATED), unikernel.EndUnknown, true},
	}
	for _, tt := range tests {
		if got, _, ok := endOf(tt.event, tt.detail); got != tt.want || ok != tt.ok {
			t.Errorf("event %d, detail %d: got %v, %v, want %v, %v", tt.event, tt.detail, got, ok, tt.want, tt.ok)
		}
	}
}

func TestStateEnd(t *testing.T) {
	tests := []struct {
		state stateOf
		want  unikernel.EndReason
		ok    bool
	}{
		{stateOf{absent: true}, 0, false},
		{stateOf{state: lv.DOMAIN_RUNNING}, 0, false},
		{stateOf{state: lv.DOMAIN_PAUSED}, 0, false},
		{stateOf{state: lv.DOMAIN_SHUTDOWN}, unikernel.EndShutdown, true},
		{stateOf{state: lv.DOMAIN_CRASHED}, unikernel.EndPanicked, true},
		{stateOf{state: lv.DOMAIN_SHUTOFF, reason: int(lv.DOMAIN_SHUTOFF_SHUTDOWN)}, unikernel.EndShutdown, true},
		{stateOf{state: lv.DOMAIN_SHUTOFF, reason: int(lv.DOMAIN_SHUTOFF_DESTROYED)}, unikernel.EndDestroyed, true},
		{stateOf{state: lv.DOMAIN_SHUTOFF, reason: int(lv.DOMAIN_SHUTOFF_CRASHED)}, unikernel.EndFailed, true},
		{stateOf{state: lv.DOMAIN_SHUTOFF, reason: int(lv.DOMAIN_SHUTOFF_SAVED)}, unikernel.EndUnknown, true},
	}
	for _, tt := range tests {
		if got, ok := tt.state.end(); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%+v: got %v, %v, want %v, %v", tt.state, got, ok, tt.want, tt.ok)
		}
	}
}

func TestWrap(t *testing.T) {
	tests := []struct {
		err  error
		want error
	}{
		{lv.Error{Code: lv.ERR_NO_DOMAIN, Message: "m"}, unikernel.ErrNotFound},
		{lv.Error{Code: lv.ERR_XML_ERROR, Message: "m"}, unikernel.ErrInvalid},
		{lv.Error{Code: lv.ERR_INTERNAL_ERROR, Domain: lv.FROM_RPC, Message: "m"}, unikernel.ErrUnavailable},
		{os.ErrPermission, os.ErrPermission},
	}
	for _, tt := range tests {
		got := wrap(tt.err, "start %s", "c1")
		if !errors.Is(got, tt.want) || !strings.HasPrefix(got.Error(), "start c1: ") {
			t.Errorf("%v: got %v", tt.err, got)
		}
	}
	if got := wrap(lv.Error{Code: lv.ERR_INTERNAL_ERROR, Message: "words"}, "x"); got.Error() != "x: words" {
		t.Errorf("an error without a class: %v", got)
	}
	if wrap(nil, "x") != nil {
		t.Error("no error became one")
	}
}
