package soak

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/integration/peer"
)

const (
	// callTimeout bounds one call of ctr. A guest that does not come up within
	// machine.boot_timeout, a minute, fails by then: so beyond is a call that
	// hangs.
	callTimeout = 90 * time.Second
	// bootTimeout is from when on a boot counts as hung.
	bootTimeout = 45 * time.Second
	lifeTimeout = 6 * time.Minute
	leakTimeout = 40 * time.Second
)

// kind is one of the ways to live.
type kind struct {
	name   string
	weight int
	live   func(*life, context.Context)
}

func kindsOf(only []string) []kind {
	all := []kind{
		{"hello", 5, (*life).hello},
		{"status", 3, (*life).status},
		{"input", 3, (*life).input},
		{"exec", 4, (*life).exec},
		{"terminal", 3, (*life).terminal},
		{"bind", 2, (*life).bind},
		{"pause", 2, (*life).pause},
		{"again", 2, (*life).again},
		{"client dies", 4, (*life).clientDies},
		{"shim dies", 2, (*life).shimDies},
		{"machine dies", 2, (*life).machineDies},
		{"containerd dies", 1, (*life).containerdDies},
	}
	return slices.DeleteFunc(all, func(k kind) bool { return len(only) > 0 && !slices.Contains(only, k.name) })
}

// life is a container's.
type life struct {
	*soak
	*rand.Rand
	kind kind
	id   string
	dir  string // of its own, gone with it
	// times is how often each event must come, 0 where that cannot be told.
	times int
}

func (l *life) fault(what, format string, args ...any) {
	l.soak.fault(Fault{what, l.kind.name, l.id, fmt.Sprintf(format, args...)})
}

// call is a call of ctr to its end, not while containerd is away.
func (l *life) call(ctx context.Context, stdin io.Reader, args ...string) peer.Result {
	l.restart.RLock()
	defer l.restart.RUnlock()
	return l.bare(ctx, stdin, args...)
}

// bare is call for whoever holds the lock.
func (l *life) bare(ctx context.Context, stdin io.Reader, args ...string) peer.Result {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r := l.Peer.Ctr(ctx, stdin, args...)
	if ctx.Err() != nil {
		l.fault("call hung", "ctr %s: no end within %v", strings.Join(args, " "), callTimeout)
	}
	return r
}

// ok is a call that must succeed.
func (l *life) ok(ctx context.Context, args ...string) bool {
	r := l.call(ctx, nil, args...)
	if r.Code != 0 {
		l.failed(strings.Join(args[:2], " "), r)
	}
	return r.Code == 0
}

// failed says that a call failed which should not; a guest that did not come up
// is a row by itself.
func (l *life) failed(what string, r peer.Result) {
	kind := "call failed"
	if strings.Contains(r.Stderr, "did not come up") || strings.Contains(r.Stderr, "did not answer within") {
		kind = "boot hung"
	}
	l.fault(kind, "ctr %s: %d, %.1000q", what, r.Code, r.Stderr)
}

func (l *life) run(flags []string, command ...string) []string {
	return append(append([]string{"run", "--runtime", l.Runtime}, append(flags, l.Busybox, l.id)...), command...)
}

// want compares what a call gave, and says how it is wrong.
func (l *life) want(what string, r peer.Result, code int, stdout string) {
	if strings.Contains(r.Stderr, "did not come up") {
		l.failed(what, r)
		return
	}
	if r.Code != code {
		l.fault("wrong status", "%s: %d, want %d; stderr %.300q", what, r.Code, code, r.Stderr)
	}
	switch {
	case r.Stdout == stdout:
	case strings.HasPrefix(stdout, r.Stdout):
		l.fault("output cut off", "%s: %d of %d bytes", what, len(r.Stdout), len(stdout))
	default:
		at := 0
		for at < min(len(r.Stdout), len(stdout)) && r.Stdout[at] == stdout[at] {
			at++
		}
		l.fault("wrong output", "%s: %d bytes, want %d; from byte %d on %.60q, want %.60q", what, len(r.Stdout), len(stdout), at, r.Stdout[at:], stdout[at:])
	}
}

func (l *life) hello(ctx context.Context) {
	begin := time.Now()
	r := l.call(ctx, nil, "run", "--rm", "--runtime", l.Runtime, l.Hello, l.id)
	took := time.Since(begin)
	l.want("hello", r, 0, "hello from a static program\n")
	if r.Code == 0 && took > bootTimeout {
		l.fault("boot hung", "hello took %v", took.Round(time.Second))
	}
	l.soak.mu.Lock()
	defer l.soak.mu.Unlock()
	all := &l.soak.report.Boots
	at, _ := slices.BinarySearch(*all, took)
	*all = slices.Insert(*all, at, took)
}

func (l *life) status(ctx context.Context) {
	code, n := l.IntN(256), l.IntN(100_000)
	r := l.call(ctx, nil, l.run([]string{"--rm"}, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; exit %d", n, code))...)
	l.want("output and status", r, code, strings.Repeat("x", n))
}

func (l *life) input(ctx context.Context) {
	in := l.text(l.IntN(1 << 20))
	r := l.call(ctx, strings.NewReader(in), l.run([]string{"--rm"}, "cat")...)
	l.want("cat", r, 0, in)
}

// text is some text that differs at every place.
func (l *life) text(n int) string {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d\n", i)
	}
	return b.String()[:n]
}

// detached starts a container that stays; false if it does not run.
func (l *life) detached(ctx context.Context, flags []string, command ...string) bool {
	begin := time.Now()
	r := l.call(ctx, nil, l.run(append([]string{"-d"}, flags...), command...)...)
	if took := time.Since(begin); r.Code == 0 && took > bootTimeout {
		l.fault("boot hung", "ctr run -d took %v", took.Round(time.Second))
	}
	if r.Code != 0 {
		l.failed("run -d", r)
		l.times = 0
	}
	return r.Code == 0
}

// exec runs processes in a container, of which some end before their input does.
func (l *life) exec(ctx context.Context) {
	if !l.detached(ctx, nil, "sleep", "1000") {
		return
	}
	for i := range 2 + l.IntN(5) {
		id := fmt.Sprintf("e%d", i)
		code, n := l.IntN(256), l.IntN(200_000)
		text := l.text(n)
		command, want := "cat; exit "+strconv.Itoa(code), text
		if l.IntN(2) == 0 {
			command, want = "head -c 1; exit "+strconv.Itoa(code), text[:min(1, n)]
		}
		r := l.call(ctx, strings.NewReader(text), "tasks", "exec", "--exec-id", id, l.id, "sh", "-c", command)
		l.want("exec "+command, r, code, want)
	}
	l.end(ctx, 137)
}

// end kills a container and wants a status.
func (l *life) end(ctx context.Context, want int) {
	l.ok(ctx, "tasks", "kill", "-s", "KILL", l.id)
	l.reap(ctx, want)
}

var nonZero = regexp.MustCompile(`exit with non-zero exit code ([0-9]+)`)

// reap waits until a task is stopped, deletes it and wants a status; negative for
// any but 0.
func (l *life) reap(ctx context.Context, want int) {
	if !l.await(ctx, "STOPPED") {
		return
	}
	r := l.call(ctx, nil, "tasks", "delete", l.id)
	if r.Code != 0 {
		l.failed("tasks delete", r)
		return
	}
	got := 0
	if m := nonZero.FindStringSubmatch(r.Stderr); m != nil {
		got, _ = strconv.Atoi(m[1]) // digits
	}
	if got != want && (want >= 0 || got == 0) {
		l.fault("wrong status", "%d, want %d", got, want)
	}
}

// await waits for a task's state.
func (l *life) await(ctx context.Context, state string) bool {
	deadline := time.Now().Add(callTimeout)
	got := ""
	for time.Now().Before(deadline) && ctx.Err() == nil {
		if got = l.state(ctx); got == state {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.fault("call hung", "the task is %q, not %s", got, state)
	return false
}

// state is that of the task; empty for none.
func (l *life) state(ctx context.Context) string {
	for line := range strings.Lines(l.call(ctx, nil, "tasks", "ls").Stdout) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == l.id {
			return f[2]
		}
	}
	return ""
}

// terminal reads the end of what a program shows in one.
func (l *life) terminal(ctx context.Context) {
	n := 1000 + l.IntN(40_000)
	program := fmt.Sprintf("seq -s ' ' %d; exit 3", n)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	what, cmd := "run -t", l.Peer.Command(ctx, l.run([]string{"--rm", "-t"}, "sh", "-c", program)...)
	if l.IntN(2) == 0 {
		if !l.detached(ctx, nil, "sleep", "1000") {
			return
		}
		defer l.end(ctx, 137)
		what, cmd = "exec -t", l.Peer.Command(ctx, "tasks", "exec", "-t", "--exec-id", "t", l.id, "sh", "-c", program)
	}
	l.restart.RLock()
	r, err := inTerminal(cmd)
	l.restart.RUnlock()
	if err != nil {
		l.fault("the test itself", "%v", err)
		return
	}
	if ctx.Err() != nil {
		l.fault("call hung", "in a terminal")
	}
	r.Stdout = strings.TrimRight(r.Stdout, " \r\n")
	var want strings.Builder
	for i := range n {
		fmt.Fprintf(&want, "%d ", i+1)
	}
	l.want(what, r, 3, strings.TrimSpace(want.String()))
}

func (l *life) bind(ctx context.Context) {
	text := l.text(l.IntN(500_000))
	if err := os.WriteFile(filepath.Join(l.dir, "in"), []byte(text), 0o644); err != nil {
		l.fault("the test itself", "%v", err)
		return
	}
	mount := fmt.Sprintf("type=bind,src=%s,dst=/host,options=rbind:rw", l.dir)
	r := l.call(ctx, nil, l.run([]string{"--rm", "--mount", mount}, "sh", "-c", "cp /host/in /host/out && wc -c </host/out")...)
	l.want("bind", r, 0, fmt.Sprintln(len(text)))
	if out, err := os.ReadFile(filepath.Join(l.dir, "out")); err != nil || string(out) != text {
		l.fault("wrong output", "the host reads %d of %d bytes, %v", len(out), len(text), err)
	}
}

func (l *life) pause(ctx context.Context) {
	if !l.detached(ctx, nil, "sleep", "1000") {
		return
	}
	for range 1 + l.IntN(3) {
		if !l.ok(ctx, "tasks", "pause", l.id) {
			break
		}
		if got := l.state(ctx); got != "PAUSED" {
			l.fault("wrong state", "paused, it is %q", got)
		}
		time.Sleep(time.Duration(l.IntN(500)) * time.Millisecond)
		if !l.ok(ctx, "tasks", "resume", l.id) {
			break
		}
	}
	r := l.call(ctx, nil, "tasks", "exec", "--exec-id", "e", l.id, "echo", "alive")
	l.want("exec after pauses", r, 0, "alive\n")
	l.end(ctx, 137)
}

// again starts a container's task more than once.
func (l *life) again(ctx context.Context) {
	code := 1 + l.IntN(200)
	if !l.detached(ctx, nil, "sh", "-c", fmt.Sprintf("exit %d", code)) {
		return
	}
	l.times = 1 + l.IntN(3)
	for i := range l.times {
		l.reap(ctx, code)
		if i+1 < l.times && !l.ok(ctx, "tasks", "start", "-d", l.id) {
			l.times = 0
			return
		}
	}
}

// clientDies kills ctr at a moment of a container's creation or of its life.
func (l *life) clientDies(ctx context.Context) {
	l.times = 0
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l.restart.RLock()
	defer l.restart.RUnlock()
	cmd := l.Peer.Command(ctx, l.run(nil, "sleep", "1000")...)
	if err := cmd.Start(); err != nil {
		l.fault("the test itself", "%v", err)
		return
	}
	time.Sleep(time.Duration(l.IntN(2500)) * time.Millisecond)
	_ = cmd.Process.Kill() // it is ours, and not reaped yet
	_ = cmd.Wait()
}

// shimDies kills the shim. containerd cleans up by its delete command.
func (l *life) shimDies(ctx context.Context) {
	l.times = 0
	if l.detached(ctx, nil, "sleep", "1000") {
		l.killOne(ctx, "containerd-shim", -1)
	}
}

// machineDies kills QEMU, or what else the container's process is.
func (l *life) machineDies(ctx context.Context) {
	if l.detached(ctx, nil, "sleep", "1000") {
		l.killOne(ctx, "qemu-system", -1)
	}
}

// killOne kills the container's process of a program and waits for the task's end.
func (l *life) killOne(ctx context.Context, name string, want int) {
	pid := l.process(name)
	if pid == 0 && name == "qemu-system" { // another runtime
		for line := range strings.Lines(l.call(ctx, nil, "tasks", "ls").Stdout) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == l.id {
				pid, _ = strconv.Atoi(f[1]) // 0 is nobody
			}
		}
	}
	if pid == 0 {
		l.fault("the test itself", "no process of %s", name)
		l.times = 0
		return
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		l.fault("the test itself", "%v", err)
	}
	if name == "containerd-shim" {
		deadline := time.Now().Add(callTimeout)
		for s := l.state(ctx); s == "RUNNING"; s = l.state(ctx) {
			if time.Now().After(deadline) {
				l.fault("call hung", "the shim is dead, and its task runs")
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		return
	}
	l.reap(ctx, want)
}

// process is the id of the container's process of a program; 0 for none.
func (l *life) process(name string) int {
	l.restart.RLock()
	defer l.restart.RUnlock()
	for _, pid := range l.Peer.Processes() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		args := strings.Split(string(line), "\x00")
		mine := slices.ContainsFunc(args, func(a string) bool {
			return a == l.id || strings.HasSuffix(a, "--"+l.id) || strings.Contains(a, "--"+l.id+",")
		})
		if strings.HasPrefix(filepath.Base(args[0]), name) && mine {
			return pid
		}
	}
	return 0
}

// containerdDies kills containerd under containers that run, and asks its
// successor for this one.
func (l *life) containerdDies(ctx context.Context) {
	l.times = 0
	if !l.detached(ctx, nil, "sleep", "1000") {
		return
	}
	sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[l.IntN(2)]
	l.restart.Lock()
	err := l.Peer.Restart(ctx, sig)
	if err == nil {
		err = l.events.again(context.WithoutCancel(ctx), l.probe)
	}
	l.restart.Unlock()
	if err != nil {
		l.fault("containerd does not return", "%v", err)
		return
	}
	r := l.call(ctx, nil, "tasks", "exec", "--exec-id", "e", l.id, "echo", "alive")
	l.want("exec after containerd's end", r, 0, "alive\n")
	l.end(ctx, 137)
}

// bury removes what a life left to its client: as a person would, by force.
func (l *life) bury() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*callTimeout)
	defer cancel()
	if l.state(ctx) != "" {
		r := l.call(ctx, nil, "tasks", "delete", "-f", l.id)
		if s := l.state(ctx); s != "" {
			l.fault("task stays", "%s after ctr tasks delete -f: %+v", s, r)
		}
	}
	if r := l.call(ctx, nil, "containers", "ls", "-q"); !slices.Contains(strings.Fields(r.Stdout), l.id) {
		return
	}
	if r := l.call(ctx, nil, "containers", "delete", l.id); r.Code != 0 {
		l.fault("container stays", "%+v", r)
	}
}
