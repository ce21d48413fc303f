package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/cgroup"
	"containerd-shim-uni/shim/sandbox"
	"containerd-shim-uni/shim/sandbox/sandboxtest"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) {
	// Long enough for a busy machine where a test waits for something to
	// happen, short where it waits for nothing to happen.
	lastWords, collectTimeout = 50*time.Millisecond, 50*time.Millisecond
	killSignalTimeout, deleteDrainTimeout = 50*time.Millisecond, 50*time.Millisecond
	patience, settleTimeout = 50*time.Millisecond, 50*time.Millisecond
	log.L.Logger.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// fakeHost is a host whose every part the test holds.
type fakeHost struct {
	machines  *sandboxtest.Machines
	disks     *fakeDisks
	guest     *fakeGuest
	watcher   unikernel.Guest // in place of guest
	networks  *fakeNetworks
	err       error // of Machines
	cgroupErr error
	group     sandboxtest.Group
	asked     string // the guest that was asked for
	declared  func(config.Config, unikernel.Rootfs) (config.Config, error)
	templates sandbox.Templates
}

func (h *fakeHost) Templates(config.Config) sandbox.Templates { return h.templates }

func (h *fakeHost) Machines(context.Context, config.Config) (sandbox.Machines, error) {
	return h.machines, h.err
}
func (h *fakeHost) Declared(cfg config.Config, _ *specs.Spec, fs unikernel.Rootfs) (config.Config, error) {
	if h.declared == nil {
		return cfg, nil
	}
	return h.declared(cfg, fs)
}
func (h *fakeHost) Disks(config.Config) (Disks, error) { return h.disks, nil }
func (h *fakeHost) Guest(cfg config.Config, _ bool) (unikernel.Guest, error) {
	h.asked = cfg.Guest
	if h.watcher != nil {
		return h.watcher, nil
	}
	return h.guest, nil
}
func (h *fakeHost) Networks(config.Config) sandbox.Networks { return h.networks }
func (h *fakeHost) Cgroup(record string, at cgroup.Place, _ cgroup.Limits) (sandbox.Group, error) {
	return &h.group, h.cgroupErr
}

type fakeDisks struct {
	mu sync.Mutex // guards claimed and merged: a pod's containers come and end at once

	rootErr, writableErr, bootErr, configureErr error

	record     []byte
	configured []unikernel.BootConfig
	imageErr   error
	taken      unikernel.ImageFiles
	base       string // the format of what was configured
	volumes    int    // that are made with each layer
	advice     string
	advised    int
	missing    string // a program
	apart      bool   // layers are on another file system
	locked     bool
	claimed    int
	saved      int
	saveErr    error
	merged     []string
	layer      unikernel.Layer // that was asked for
}

func (d *fakeDisks) BootDisk(_ context.Context, _ unikernel.Rootfs, _ unikernel.BootDisk, dst string) error {
	if d.bootErr != nil {
		return d.bootErr
	}
	return os.WriteFile(dst, nil, 0o600)
}

func (d *fakeDisks) Configure(_ context.Context, base unikernel.Disk, dst string, _ int64, c unikernel.BootConfig) (made []unikernel.Disk, err error) {
	if _, err := os.Stat(base.Path); err != nil {
		return nil, err
	}
	d.base = base.Format
	if d.configureErr != nil {
		return nil, d.configureErr
	}
	d.configured = append(d.configured, c)
	for i := range d.volumes {
		v := unikernel.Disk{Path: filepath.Join(filepath.Dir(dst), fmt.Sprint("volume-", i)), Format: "raw", Serial: fmt.Sprint("volume-", i)}
		if err := os.WriteFile(v.Path, nil, 0o600); err != nil {
			return nil, err
		}
		made = append(made, v)
	}
	f, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return made, f.Close()
}

func (d *fakeDisks) ImageFiles(_ context.Context, _ unikernel.Rootfs, in, out unikernel.ImageFiles) error {
	if d.imageErr != nil {
		return d.imageErr
	}
	d.taken = in
	for from, to := range map[string]string{in.Kernel: out.Kernel, in.Initrd: out.Initrd, in.Disk: out.Disk} {
		if from == "" {
			continue
		}
		if err := os.WriteFile(to, []byte(from), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (d *fakeDisks) DiskLayer(base, dst string) error {
	if _, err := os.Stat(base); err != nil {
		return err
	}
	return os.WriteFile(dst, nil, 0o600)
}

func (d *fakeDisks) Missing(_ unikernel.Disk, args, _ []string, _ string) bool {
	return args[0] == d.missing
}

func (d *fakeDisks) Advise(_ string, root unikernel.Disk, args, _ []string, _ string) string {
	d.advised++
	if _, err := os.Stat(root.Path); err != nil || len(args) == 0 {
		return ""
	}
	return d.advice
}

func (d *fakeDisks) Record(layer string) ([]byte, error) {
	_, err := os.Stat(layer)
	return d.record, err
}

func (d *fakeDisks) Root(_ context.Context, fs unikernel.Rootfs, dst string) error {
	if d.rootErr != nil {
		return d.rootErr
	}
	return os.WriteFile(dst, nil, 0o600)
}

func (d *fakeDisks) Writable(_ context.Context, dst string, _ int64) error {
	if d.writableErr != nil {
		return d.writableErr
	}
	return os.WriteFile(dst, nil, 0o600)
}

// CanKeep implements Disks.
func (d *fakeDisks) CanKeep(unikernel.Layer, string) bool { return !d.apart }

func (d *fakeDisks) Claim(dir, _ string) (func(), error) {
	_, err := os.Stat(dir)
	claim := func(n int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.claimed += n
	}
	claim(1)
	return func() { claim(-1) }, err
}

func (d *fakeDisks) Pin(string, []string) error { return nil }
func (d *fakeDisks) Merge(_ context.Context, disk, dir string) error {
	if _, err := os.Stat(disk); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.merged = append(d.merged, dir)
	return d.saveErr
}

func (d *fakeDisks) Recover(context.Context, string) error { return nil }
func (d *fakeDisks) Sweep(context.Context) error           { return nil }
func (d *fakeDisks) Settle(unikernel.Layer) error          { return nil }
func (d *fakeDisks) Save(_ context.Context, l unikernel.Layer) error {
	if !d.locked || l != d.layer {
		return errors.New("this layer is not the caller's")
	}
	d.saved++
	return d.saveErr
}

// Layer implements Disks with one lock for all layers.
func (d *fakeDisks) Layer(ctx context.Context, l unikernel.Layer, dst string, bytes int64) (func(), error) {
	if d.locked {
		return nil, errors.New("in use")
	}
	d.locked, d.layer = true, l
	return func() { d.locked = false }, d.Writable(ctx, dst, bytes)
}

type fakeNetworks struct {
	found           unikernel.Network
	lookErr, tapErr error
	joinErr, newErr error
	taps            int
	namespaces      int
	occupyErr       error
	occupants       []*exec.Cmd
	listeners       []net.Listener
	listenErr       error
}

func (n *fakeNetworks) New(string) error  { n.namespaces++; return n.newErr }
func (n *fakeNetworks) Drop(string) error { n.namespaces = 0; return nil }

// Occupy implements Networks with a process that sleeps.
func (n *fakeNetworks) Occupy(_, _ string) (int, func(), error) {
	if n.occupyErr != nil {
		return 0, nil, n.occupyErr
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	n.occupants = append(n.occupants, cmd)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	return cmd.Process.Pid, func() { _ = cmd.Process.Kill(); <-ended }, nil
}

func (n *fakeNetworks) Look(string) (unikernel.Network, error) { return n.found, n.lookErr }
func (n *fakeNetworks) Tap(_, _ string, found unikernel.Network, _ int) ([]unikernel.NIC, error) {
	if n.tapErr != nil {
		return nil, n.tapErr
	}
	n.taps = len(found.Interfaces)
	return make([]unikernel.NIC, n.taps), nil
}
func (n *fakeNetworks) Join(string, string, unikernel.Network) error { return n.joinErr }
func (n *fakeNetworks) Remove(string, string) error                  { n.taps = 0; return nil }
func (n *fakeNetworks) Listen(string, string) ([]net.Listener, error) {
	return n.listeners, n.listenErr
}

// fakeGuest answers as told.
type fakeGuest struct {
	planErr, attachErr error
	attach             func(context.Context) error // instead of attaching at once
	session            *fakeSession
}

func (g *fakeGuest) Name() string { return "fake" }

func (g *fakeGuest) Capacity() int { return 1 }

func (g *fakeGuest) Plan(_ unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	return unikernel.Plan{
		Boot: unikernel.Boot{Machine: "microvm", Kernel: "/k", Resources: r, Control: "ctl", Parks: true, ShareTag: "share"},
		Disks: []unikernel.DiskRequest{
			{Kind: unikernel.DiskRoot, Serial: unikernel.SerialRoot}, {Kind: unikernel.DiskWritable, Serial: unikernel.SerialWritable},
		},
	}, g.planErr
}

func (g *fakeGuest) Prepare(unikernel.App) (unikernel.Prepared, error) {
	return unikernel.Prepared{}, nil
}

func (g *fakeGuest) Connect(ctx context.Context, m unikernel.Booted) (unikernel.Session, error) {
	conn, err := m.Control(ctx)
	if err != nil {
		return nil, err
	}
	if g.attach != nil {
		if err := g.attach(ctx); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if g.attachErr != nil {
		conn.Close()
		return nil, g.attachErr
	}
	g.session.conn = conn
	return g.session, nil
}

type fakeSession struct {
	conn     io.Closer
	mu       sync.Mutex
	init     *fakeProcess
	execs    map[string]*fakeProcess
	app      unikernel.App
	runErr   error
	onOOM    func()
	onRun    func() // while it runs
	onExec   func(id string) error
	shutdown bool
	ran      bool
	over     error // the guest is gone, or Close was called
	clock    int   // how often it was set
	stats    *unikernel.Stats
	limits   unikernel.Limits
}

// Forward implements unikernel.Forwarder: every server says where it is and ends.
func (s *fakeSession) Forward(_ context.Context, to netip.AddrPort, client unikernel.Conn) error {
	_, err := io.WriteString(client, to.String())
	return err
}

func (s *fakeSession) Stats(context.Context) (unikernel.Stats, error) {
	if s.stats == nil {
		return unikernel.Stats{}, fmt.Errorf("%w: it is busy", unikernel.ErrUnavailable)
	}
	return *s.stats, nil
}

func (s *fakeSession) Limit(_ context.Context, l unikernel.Limits) error {
	s.limits = l
	return nil
}

func newSession() *fakeSession {
	return &fakeSession{init: newProcess(), execs: map[string]*fakeProcess{}}
}

func (s *fakeSession) OnOOM(f func()) { s.onOOM = f }

func (s *fakeSession) Run(_ context.Context, app unikernel.App, _ unikernel.Stdio) (unikernel.Process, error) {
	s.mu.Lock()
	again := s.ran
	s.ran, s.app = true, app
	s.mu.Unlock()
	if again {
		return nil, fmt.Errorf("%w: run twice", unikernel.ErrInvalid)
	}
	if s.onRun != nil {
		s.onRun()
	}
	if s.runErr != nil {
		return nil, s.runErr
	}
	return s.init, nil
}

func (s *fakeSession) Exec(_ context.Context, id string, p *specs.Process, _ unikernel.Stdio) (unikernel.Process, error) {
	if err := s.refuses(p); err != nil {
		return nil, err
	}
	if s.onExec != nil {
		if err := s.onExec(id); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.execs[id] = newProcess()
	return s.execs[id], nil
}

// missing is a program that no fake has.
const missing = "missing"

// refuses says why no process can be started now.
func (s *fakeSession) refuses(p *specs.Process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over != nil:
		return s.over
	case !s.ran || s.init.gone():
		return fmt.Errorf("%w: cannot exec in a stopped container", unikernel.ErrInvalid)
	case p.Args[0] == missing:
		return fmt.Errorf("exec: %q: %w", missing, unikernel.ErrNotFound)
	}
	return nil
}

func (s *fakeSession) exec(id string) *fakeProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.execs[id]
}

func (s *fakeSession) SetClock(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	return errors.New("it cannot be read")
}

func (s *fakeSession) Shutdown(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.shutdown = true
	}
	return s.over
}

func (s *fakeSession) Close() error {
	s.hangUp()
	if s.conn == nil {
		return nil
	}
	_ = s.conn.Close() // again perhaps
	return nil
}

// hangUp has the guest go away.
func (s *fakeSession) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = fmt.Errorf("%w: the fake hung up", unikernel.ErrUnavailable)
	s.init.break_()
	for _, p := range s.execs {
		p.break_()
	}
}

// fakeProcess exits when the test says so, or by SIGKILL.
type fakeProcess struct {
	exited, drained chan struct{}

	mu      sync.Mutex
	exit    unikernel.Exit
	err     error
	signals []syscall.Signal
	size    window
	deaf    bool // takes signals and does nothing
	stuck   chan struct{}
}

func newProcess() *fakeProcess {
	return &fakeProcess{exited: make(chan struct{}), drained: make(chan struct{})}
}

// hang makes the guest answer nothing, whatever the context says, until the
// function that is returned is called.
func (p *fakeProcess) hang() (goOn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = make(chan struct{})
	return sync.OnceFunc(func() { close(p.stuck) })
}

func (p *fakeProcess) answer() {
	p.mu.Lock()
	stuck := p.stuck
	p.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
}

func (p *fakeProcess) Signal(_ context.Context, sig syscall.Signal, _ bool) error {
	p.answer()
	if p.gone() {
		return unikernel.ErrNotFound
	}
	if sig > unikernel.MaxSignal {
		return fmt.Errorf("signal %d: %w", sig, unikernel.ErrInvalid)
	}
	p.mu.Lock()
	p.signals = append(p.signals, sig)
	deaf := p.deaf
	p.mu.Unlock()
	if sig == syscall.SIGKILL && !deaf {
		p.end(137)
	}
	return nil
}

func (p *fakeProcess) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// end lets the process exit, and soon all its output be read.
func (p *fakeProcess) end(status uint32) {
	p.finish(unikernel.Exit{Status: status, At: time.Now()}, nil)
	time.AfterFunc(time.Millisecond, p.drain)
}

func (p *fakeProcess) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.drained:
	default:
		close(p.drained)
	}
}

func (p *fakeProcess) break_() {
	p.finish(unikernel.Exit{}, fmt.Errorf("%w: the fake hung up", unikernel.ErrUnavailable))
	p.drain()
}

func (p *fakeProcess) finish(exit unikernel.Exit, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone() {
		return
	}
	p.exit, p.err = exit, err
	close(p.exited)
}

func (p *fakeProcess) Resize(_ context.Context, w, h uint16) error {
	p.answer()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = window{w, h}
	return nil
}
func (p *fakeProcess) CloseStdin(context.Context) error { return nil }
func (p *fakeProcess) Exited() <-chan struct{}          { return p.exited }
func (p *fakeProcess) Drained() <-chan struct{}         { return p.drained }
func (p *fakeProcess) Exit() (unikernel.Exit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone() {
		return unikernel.Exit{}, fmt.Errorf("%w: it has not exited", unikernel.ErrInvalid)
	}
	return p.exit, p.err
}

func (p *fakeProcess) got() []syscall.Signal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.signals)
}

// fakeEvents records what was sent.
type fakeEvents struct {
	mu  sync.Mutex
	all []proto.Message
}

func (e *fakeEvents) Send(m proto.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, m)
}

// names returns the events in short: "create", "exit 7", "exec-exit x 0".
func (e *fakeEvents) names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, m := range e.all {
		switch m := m.(type) {
		case *events.TaskCreate:
			names = append(names, "create")
		case *events.TaskStart:
			names = append(names, "start")
		case *events.TaskExit:
			if m.ID == m.ContainerID {
				names = append(names, "exit")
			} else {
				names = append(names, "exit "+m.ID)
			}
		case *events.TaskDelete:
			names = append(names, "delete")
		case *events.TaskExecAdded:
			names = append(names, "added "+m.ExecID)
		case *events.TaskExecStarted:
			names = append(names, "started "+m.ExecID)
		case *events.TaskOOM:
			names = append(names, "oom")
		case *events.TaskPaused:
			names = append(names, "paused")
		case *events.TaskResumed:
			names = append(names, "resumed")
		}
	}
	return names
}

// exits returns the containers in the order of their exits.
func (e *fakeEvents) exits() (ids []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.all {
		if m, ok := m.(*events.TaskExit); ok && m.ID == m.ContainerID {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// bench is a service on fakes, with one bundle.
type bench struct {
	*Service
	t       *testing.T
	host    *fakeHost
	session *fakeSession
	events  *fakeEvents
	dir     string
	bundle  string
	spec    specs.Spec
}

func newBench(t *testing.T) *bench {
	t.Helper()
	// Not t.TempDir: the path of a Unix socket is short.
	dir, err := os.MkdirTemp("", "task")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, bundle: filepath.Join(dir, "b"), session: newSession(), events: &fakeEvents{}}
	b.host = &fakeHost{
		machines: &sandboxtest.Machines{}, disks: &fakeDisks{},
		guest: &fakeGuest{session: b.session}, networks: &fakeNetworks{},
	}
	b.Service = NewService("ns", b.host, b.events, nil)
	b.spec = specs.Spec{
		Process: &specs.Process{Args: []string{"true"}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}},
	}
	if err := os.MkdirAll(filepath.Join(b.bundle, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.configure("")
	return b
}

// configure writes the runtime's configuration.
func (b *bench) configure(more string) {
	b.t.Helper()
	file := filepath.Join(b.dir, "uni.toml")
	text := more + "\n[storage]\nstate_dir = \"" + b.dir + "/s\"\ndata_dir = \"" + b.dir + "/d\"\n"
	for path, content := range map[string]string{file: text, filepath.Join(b.bundle, configRecord): file} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) create() (int, error) {
	b.t.Helper()
	data, err := json.Marshal(b.spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.Create(b.t.Context(), CreateRequest{ID: "c", Bundle: b.bundle})
}

// must creates, and starts if asked.
func (b *bench) must(start bool) *Container {
	b.t.Helper()
	if _, err := b.create(); err != nil {
		b.t.Fatal(err)
	}
	if start {
		if _, err := b.Start(b.t.Context(), "c", ""); err != nil {
			b.t.Fatal(err)
		}
	}
	c, err := b.Container("c")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { b.end(c) })
	return c
}

// end lets a container that a test has left behind end, so that no goroutine
// outlives its test.
func (b *bench) end(c *Container) {
	b.host.machines.FailDestroy(nil)
	b.session.init.end(0)
	_ = b.host.machines.Destroy(context.Background(), c.names.Sandbox.Domain())
	<-c.released
}

func (b *bench) wait() uint32 {
	b.t.Helper()
	exit, err := b.Wait(b.t.Context(), "c", "")
	if err != nil {
		b.t.Fatal(err)
	}
	return exit.Status
}

func (b *bench) remove() {
	b.t.Helper()
	if _, err := b.Delete(b.t.Context(), "c", ""); err != nil {
		b.t.Fatal(err)
	}
}

// wantNothing checks that nothing of any container is left.
func (b *bench) wantNothing() {
	b.t.Helper()
	if n := b.host.machines.Alive(); n > 0 {
		b.t.Errorf("%d machines are left", n)
	}
	for _, dir := range []string{"s", "d/containers"} {
		entries, err := os.ReadDir(filepath.Join(b.dir, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			b.t.Error(err)
		}
		for _, e := range entries {
			b.t.Errorf("%s/%s is left", dir, e.Name())
		}
	}
	if b.host.networks.taps > 0 {
		b.t.Errorf("%d taps are left", b.host.networks.taps)
	}
	if b.host.networks.namespaces > 0 {
		b.t.Errorf("%d network namespaces are left", b.host.networks.namespaces)
	}
	for _, occupant := range b.host.networks.occupants {
		if err := occupant.Process.Signal(syscall.Signal(0)); err == nil {
			b.t.Errorf("process %d, which stood for a container, is left", occupant.Process.Pid)
		}
	}
}

func (b *bench) wantEvents(want ...string) {
	b.t.Helper()
	if got := b.events.names(); !slices.Equal(got, want) {
		b.t.Errorf("events: %s; want %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func (b *bench) wantState(want State) {
	b.t.Helper()
	st, err := b.Status("c", "")
	if err != nil {
		b.t.Fatal(err)
	}
	if st.State != want {
		b.t.Errorf("state %s, want %s", st.State, want)
	}
}
