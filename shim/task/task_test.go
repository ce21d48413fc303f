package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const domain = "uni-ns--c"

func TestLife(t *testing.T) {
	b := newBench(t)
	pid, err := b.create()
	if err != nil || pid == 0 {
		t.Fatalf("create: %d, %v", pid, err)
	}
	b.wantState(Created)
	if _, err := b.create(); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second create: %v", err)
	}
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	b.wantState(Running)
	if _, err := b.Start(t.Context(), "c", ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	if _, err := b.Delete(t.Context(), "c", ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete while running: %v", err)
	}
	b.Shutdown() // refused: there is a container
	b.session.init.end(7)
	if got := b.wait(); got != 7 {
		t.Errorf("status %d", got)
	}
	if err := b.Kill(t.Context(), "c", "", syscall.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill after exit: %v", err)
	}
	st, err := b.Delete(t.Context(), "c", "")
	if err != nil || st.Exit.Status != 7 || st.Pid != pid {
		t.Errorf("delete: %+v, %v", st, err)
	}
	if _, err := b.Status("c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("status after delete: %v", err)
	}
	if !b.session.shutdown {
		t.Error("the guest was not told that its exit is recorded")
	}
	b.wantEvents("create", "start", "exit", "delete")
	b.wantNothing()
	b.Shutdown()
	<-b.Done()
	if _, err := b.create(); !errdefs.IsUnavailable(err) {
		t.Errorf("create after shutdown: %v", err)
	}
}

func TestMachineDocument(t *testing.T) {
	b := newBench(t)
	limit, quota := int64(100<<20+5), int64(250_000)
	b.spec.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota},
	}
	c := b.must(false)
	m := b.host.machines.Made[0]
	if m.Name != domain || m.Title != "ns/c" || m.MemoryMiB != 100 || m.VCPUs != 3 {
		t.Errorf("machine %+v", m)
	}
	if len(m.Disks) != 2 || m.Disks[0].Serial != "root" || !m.Disks[0].ReadOnly || m.Disks[1].Serial != "writable" || m.Disks[1].Ephemeral {
		t.Errorf("disks %+v", m.Disks)
	}
	if m.Share != nil || m.Channels[0].Name != "ctl" || m.Console != c.names.Sandbox.Console() {
		t.Errorf("machine %+v", m)
	}
}

// TestEnd covers every way in which a container ends.
func TestEnd(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(*bench)
		want uint32
	}{
		"exit":                    {func(b *bench) { b.session.init.end(42) }, 42},
		"exit with a late reader": {func(b *bench) { b.session.init.finish(unikernel.Exit{Status: 3}, nil) }, 3},
		"exit reported, machine gone at once": {func(b *bench) {
			b.session.init.end(5)
			b.host.machines.End(domain, unikernel.EndFailed)
		}, 5},
		"guest powered off": {func(b *bench) { b.host.machines.End(domain, unikernel.EndShutdown) }, 255},
		"guest panicked":    {func(b *bench) { b.host.machines.End(domain, unikernel.EndPanicked) }, 255},
		"QEMU killed":       {func(b *bench) { b.host.machines.End(domain, unikernel.EndFailed) }, 137},
		"machine destroyed": {func(b *bench) { b.host.machines.End(domain, unikernel.EndDestroyed) }, 137},
		"nothing is known":  {func(b *bench) { b.host.machines.End(domain, unikernel.EndUnknown) }, 137},
		"guest fell silent": {func(b *bench) { b.session.init.break_() }, 255},
		"silent, then dead": {func(b *bench) {
			b.session.init.break_()
			b.host.machines.End(domain, unikernel.EndFailed)
		}, 137},
		"SIGKILL": {func(b *bench) { b.kill(syscall.SIGKILL) }, 137},
		"SIGKILL, deaf guest": {func(b *bench) {
			b.session.init.deaf = true
			b.kill(syscall.SIGKILL)
		}, 137},
		"SIGKILL while paused": {func(b *bench) {
			b.pause()
			b.kill(syscall.SIGKILL)
		}, 137},
		"exit just before SIGKILL": {func(b *bench) {
			b.session.init.end(1)
			_ = b.Kill(context.Background(), "c", "", syscall.SIGKILL, true)
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.must(true)
			test.do(b)
			if got := b.wait(); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
			b.wantState(Stopped)
			b.remove()
			if strings.Contains(name, "paused") {
				b.wantEvents("create", "start", "paused", "exit", "delete")
			} else {
				b.wantEvents("create", "start", "exit", "delete")
			}
			b.wantNothing()
		})
	}
}

func (b *bench) kill(sig syscall.Signal) {
	b.t.Helper()
	if err := b.Kill(b.t.Context(), "c", "", sig, true); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) pause() {
	b.t.Helper()
	c, err := b.Container("c")
	if err != nil {
		b.t.Fatal(err)
	}
	if err := c.Pause(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// TestUnstarted covers the ends of a container that was never started.
// TestOOM: the event comes after the start and before the exit; of many in a
// row one tells.
func TestOOM(t *testing.T) {
	for name, at := range map[string]func(*bench, func()){
		"while it runs":   func(b *bench, oom func()) { b.must(true); oom() },
		"while it starts": func(b *bench, oom func()) { b.session.onRun = oom; b.must(true) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			at(b, func() {
				for range 100 {
					b.session.onOOM()
				}
			})
			b.session.init.end(137)
			b.wait()
			b.session.onOOM()
			b.wantEvents("create", "start", "oom", "exit")
		})
	}
}

// TestReasonIsLogged: a session that was ended on our side makes the guest shut
// down; the log has both.
func TestReasonIsLogged(t *testing.T) {
	b := newBench(t)
	var logged lockedBuffer
	log.L.Logger.SetOutput(&logged)
	t.Cleanup(func() { log.L.Logger.SetOutput(io.Discard) })
	c := b.must(true)
	b.session.init.break_()
	b.host.machines.End(c.names.Sandbox.Domain(), unikernel.EndShutdown)
	b.wait()
	for _, want := range []string{"the fake hung up", unikernel.EndShutdown.String()} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("%q is not in the log: %s", want, logged.String())
		}
	}
}

// lockedBuffer collects what several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestUnstarted(t *testing.T) {
	for name, test := range map[string]struct {
		do     func(*bench)
		events []string
	}{
		"SIGKILL":     {func(b *bench) { b.kill(syscall.SIGKILL) }, nil},
		"SIGTERM":     {func(b *bench) { b.kill(syscall.SIGTERM) }, nil},
		"SIGQUIT":     {func(b *bench) { b.kill(syscall.SIGQUIT) }, nil},
		"QEMU killed": {func(b *bench) { b.host.machines.End(domain, unikernel.EndFailed) }, nil},
		"delete":      {func(b *bench) { b.remove() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.must(false)
			test.do(b)
			if name != "delete" {
				if got := b.wait(); got != 137 {
					t.Errorf("status %d", got)
				}
				if _, err := b.Start(t.Context(), "c", ""); !errdefs.IsFailedPrecondition(err) {
					t.Errorf("start after the end: %v", err)
				}
				b.remove()
			}
			b.wantEvents("create", "exit", "delete")
			b.wantNothing()
		})
	}
	b := newBench(t)
	b.must(false)
	if err := b.Kill(t.Context(), "c", "", syscall.SIGUSR1, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("SIGUSR1 before start: %v", err)
	}
}

// TestStartFails covers every way in which a start fails.
func TestStartFails(t *testing.T) {
	missing := fmt.Errorf("exec: %q: executable file not found in $PATH: %w", "nosuch", unikernel.ErrNotFound)
	for name, test := range map[string]struct {
		prepare func(*bench)
		want    uint32
		text    string
	}{
		"resume": {func(b *bench) { b.host.machines.ResumeErr = errors.New("no") }, 255, "resume machine: no"},
		"attach": {func(b *bench) { b.host.guest.attachErr = unikernel.ErrUnavailable }, 255, "guest unavailable"},
		"boot hangs": {func(b *bench) {
			b.host.guest.attach = func(ctx context.Context) error { <-ctx.Done(); return unikernel.ErrUnavailable }
		}, 255, "did not answer within 1s"},
		"machine dies while booting": {func(b *bench) {
			b.host.guest.attach = func(ctx context.Context) error {
				b.host.machines.End(domain, unikernel.EndFailed)
				<-ctx.Done()
				return unikernel.ErrUnavailable
			}
		}, 137, "its machine ended: hypervisor failed"},
		"guest gone before its machine": {func(b *bench) {
			b.host.guest.attach = func(context.Context) error {
				b.host.machines.End(domain, unikernel.EndPanicked)
				return unikernel.ErrUnavailable
			}
		}, 255, "guest unavailable"},
		"program missing": {func(b *bench) { b.session.runErr = missing }, 127,
			`unable to start container process: exec: "nosuch": executable file not found in $PATH`},
		"program not executable": {func(b *bench) { b.session.runErr = fmt.Errorf("permission denied: %w", unikernel.ErrInvalid) },
			126, "permission denied"},
		"program with advice": {func(b *bench) {
			b.session.runErr = missing
			b.host.disks.advice = "nosuch is missing: add it"
		}, 127, `executable file not found in $PATH: not found; nosuch is missing: add it`},
		"killed while booting": {func(b *bench) {
			b.host.guest.attach = func(ctx context.Context) error {
				b.kill(syscall.SIGKILL)
				<-ctx.Done()
				return unikernel.ErrUnavailable
			}
		}, 137, "it was killed"},
		"killed before the machine resumed": {func(b *bench) {
			b.host.machines.OnResume = func(string) { b.kill(syscall.SIGKILL) }
		}, 137, "it was killed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.configure("[machine]\nboot_timeout = \"1s\"")
			test.prepare(b)
			b.must(false)
			_, err := b.Start(t.Context(), "c", "")
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %q", err, test.text)
			}
			if errors.Is(err, unikernel.ErrNotFound) || errdefs.IsNotFound(err) {
				t.Error("containerd would take this error for a container that is not there")
			}
			b.wantState(Stopped) // at once, so that Delete works
			if got := b.wait(); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
			b.remove()
			b.wantEvents("create", "exit", "delete")
			b.wantNothing()
		})
	}
}

// TestNoAdviceAboutBindMounts: the program may be in one, and not on the disk.
func TestNoAdviceAboutBindMounts(t *testing.T) {
	b := newBench(t)
	b.session.runErr = unikernel.ErrNotFound
	b.host.disks.advice = "add it to the image"
	b.spec.Mounts = []specs.Mount{{Destination: "/opt", Source: b.bundle, Type: "bind"}}
	b.host.guest.attach = func(context.Context) error { return nil }
	c := b.must(false)
	if len(c.app.Shares) != 1 {
		t.Fatalf("shares %+v", c.app.Shares)
	}
	if text := c.advice(); text != "" {
		t.Errorf("advice %q", text)
	}
	c.app.Shares[0].Mount.Destination = "/etc/hosts"
	if text := c.advice(); text != "add it to the image" {
		t.Errorf("advice %q", text)
	}
	if _, err := b.Start(t.Context(), "c", ""); err == nil {
		t.Error("started")
	}
	b.remove()
	b.wantNothing()
}

func TestStartOutlivesItsCaller(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.host.guest.attach = func(ctx context.Context) error { cancel(); return ctx.Err() }
	b.must(false)
	if _, err := b.Start(ctx, "c", ""); err != nil {
		t.Fatal(err)
	}
	b.wantState(Running)
}

func TestPauseAndResume(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	if err := c.Resume(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resume while running: %v", err)
	}
	b.pause()
	b.wantState(Paused)
	b.wantEvents("create", "start", "paused")
	if err := c.Pause(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pause while paused: %v", err)
	}
	b.kill(syscall.SIGTERM)
	b.kill(syscall.SIGHUP)
	if err := b.ResizePty(t.Context(), "c", "", 80, 25); err != nil {
		t.Error(err)
	}
	if got := b.session.init.got(); len(got) > 0 {
		t.Errorf("a paused guest was sent %v", got)
	}
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantState(Running)
	b.wantEvents("create", "start", "paused", "resumed")
	if got := b.session.init.got(); !slices.Equal(got, []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP}) {
		t.Errorf("signals after resume: %v", got)
	}
	if got := b.session.init.size; got != (window{80, 25}) {
		t.Errorf("size after resume: %v", got)
	}
	if b.session.clock != 1 {
		t.Errorf("the clock was set %d times; a machine that stood still must be told the time", b.session.clock)
	}
	b.host.machines.PauseErr = errors.New("no")
	if err := c.Pause(t.Context()); err == nil {
		t.Error("pause succeeded")
	}
	b.wantState(Running)
	b.host.machines.PauseErr = nil
	b.pause()
	b.host.machines.ResumeErr = errors.New("no")
	if err := c.Resume(t.Context()); err == nil {
		t.Error("resume succeeded")
	}
	b.wantState(Paused)
}

func TestSignalsWhileStarting(t *testing.T) {
	b := newBench(t)
	b.host.guest.attach = func(context.Context) error {
		b.kill(syscall.SIGTERM)
		return b.ResizePty(t.Context(), "c", "", 100, 40)
	}
	b.must(true)
	if got := b.session.init.got(); !slices.Equal(got, []syscall.Signal{syscall.SIGTERM}) {
		t.Errorf("signals: %v", got)
	}
	if got := b.session.init.size; got != (window{100, 40}) {
		t.Errorf("size %v", got)
	}
}

func TestTerminalHasItsSizeFromTheStart(t *testing.T) {
	b := newBench(t)
	b.spec.Process.Terminal = true
	b.must(false)
	if err := b.ResizePty(t.Context(), "c", "", 132, 43); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	if size := b.session.app.Spec.Process.ConsoleSize; size == nil || size.Width != 132 || size.Height != 43 {
		t.Errorf("size %+v", size)
	}
}

func TestDestroyFails(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.host.machines.FailDestroy(errors.New("libvirt is gone"))
	b.session.init.end(0)
	if got := b.wait(); got != 0 {
		t.Errorf("status %d", got)
	}
	b.host.machines.End(domain, unikernel.EndUnknown) // its process was killed instead
	<-c.released
	b.remove()
	b.wantNothing()
}

func TestConcurrentDeletes(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.session.init.end(9)
	b.wait()
	results := make(chan error, 4)
	for range cap(results) {
		go func() {
			st, err := c.Delete(t.Context())
			if err == nil && st.Exit.Status != 9 {
				err = fmt.Errorf("status %d", st.Exit.Status)
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	b.wantEvents("create", "start", "exit", "delete")
}

func TestExitDoesNotWaitForReaders(t *testing.T) {
	b := newBench(t)
	c := b.must(true)
	b.session.init.finish(unikernel.Exit{Status: 4}, nil) // and its output stays unread
	if got := b.wait(); got != 4 {
		t.Errorf("status %d", got)
	}
	select {
	case <-c.released:
		t.Error("the machine is gone although output is on its way")
	case <-time.After(20 * time.Millisecond):
	}
	b.remove()
	b.wantNothing()
}

// Who waited for a container takes its pid for free, as after runc.
func TestMachineIsGoneWhenTheExitIsTold(t *testing.T) {
	defer func(d time.Duration) { exitPatience = d }(exitPatience)
	exitPatience = time.Minute
	b := newBench(t)
	b.must(true)
	b.session.init.end(3)
	if got := b.wait(); got != 3 {
		t.Errorf("status %d", got)
	}
	if n := b.host.machines.Alive(); n > 0 {
		t.Error("the machine is still there")
	}
	b.remove()
	b.wantNothing()
}

// What cannot change is refused, with what can be done; what is in force
// already, and what clients write for nothing, is no change.
func TestUpdate(t *testing.T) {
	b := newBench(t) // 256 MiB, one CPU
	c := b.must(true)
	n := func(v int64) *int64 { return &v }
	u := func(v uint64) *uint64 { return &v }
	memory := func(limit int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}
	for _, tt := range []struct {
		name   string
		res    *specs.LinuxResources
		want   unikernel.Limits
		refuse string
	}{
		{"the same memory", memory(256 << 20), unikernel.Limits{}, ""},
		{"no limit of memory", memory(-1), unikernel.Limits{}, ""},
		{"less memory", memory(128 << 20), unikernel.Limits{Memory: u(128 << 20)}, ""},
		{"again", memory(128 << 20), unikernel.Limits{}, ""},
		{"all of it", memory(256 << 20), unikernel.Limits{Memory: u(0)}, ""},
		{"more memory", memory(512 << 20), unikernel.Limits{}, "256 MiB"},
		{"processes", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: n(10)}}, unikernel.Limits{Pids: u(10)}, ""},
		{"any number of them", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: n(-1)}}, unikernel.Limits{Pids: u(0)}, ""},
		{"half a CPU", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: n(50_000), Period: u(100_000)}}, unikernel.Limits{}, ""},
		{"two CPUs", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: n(200_000)}}, unikernel.Limits{}, "1 virtual CPUs"},
		{"real time", &specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: n(1)}}, unikernel.Limits{}, "real time"},
		{"disk weight", &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{}}, unikernel.Limits{}, "block I/O"},
		{"no huge pages", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}}, unikernel.Limits{}, ""},
		{"huge pages", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}}, unikernel.Limits{}, "huge pages"},
		{"files", &specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, unikernel.Limits{}, "unified"},
		{"everything or nothing", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: n(3)}, Unified: map[string]string{"a": "b"}}, unikernel.Limits{}, "unified"},
	} {
		b.session.limits = unikernel.Limits{}
		err := c.Update(t.Context(), tt.res)
		if tt.refuse == "" && err != nil || tt.refuse != "" && (!errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), tt.refuse)) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !reflect.DeepEqual(b.session.limits, tt.want) {
			t.Errorf("%s: the guest was told %+v, want %+v", tt.name, b.session.limits, tt.want)
		}
	}
	b.pause()
	if err := c.Update(t.Context(), memory(100<<20)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a paused guest's memory: %v", err)
	}
	if err := c.Update(t.Context(), memory(256<<20)); err != nil {
		t.Errorf("a paused guest's memory as it is: %v", err)
	}
}

// A guest that is paused, or does not answer, is said to use what it did when
// it was last asked; one that counts nothing has no numbers.
func TestCount(t *testing.T) {
	b := newBench(t)
	c := b.must(false)
	if s := c.count(t.Context()); s != nil {
		t.Errorf("before it runs: %+v", s)
	}
	if _, err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.session.stats = &unikernel.Stats{Pids: 3}
	if s := c.count(t.Context()); s == nil || s.Pids != 3 {
		t.Errorf("a guest that answers: %+v", s)
	}
	b.session.stats = nil
	if s := c.count(t.Context()); s == nil || s.Pids != 3 {
		t.Errorf("a guest that does not: %+v", s)
	}
	b.session.stats = &unikernel.Stats{Pids: 5}
	b.pause()
	b.session.stats = &unikernel.Stats{Pids: 7}
	if s := c.count(t.Context()); s == nil || s.Pids != 5 {
		t.Errorf("a paused one: %+v", s)
	}
}
