package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/integration/peer"
)

// container is one "ctr run" a test asks for.
type container struct {
	image string   // busybox when empty
	id    string   // "c1" when empty
	flags []string // further flags of "ctr run"
	stdin io.Reader
	keep  bool // without --rm
}

func (c container) args(command []string) []string {
	args := []string{"run", "--runtime", world.runtime}
	if !c.keep {
		args = append(args, "--rm")
	}
	args = append(append(args, c.flags...), or(c.image, busybox), or(c.id, "c1"))
	return append(args, command...)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// run is "ctr run" to its end.
func (h *host) run(t *testing.T, c container, command ...string) peer.Result {
	t.Helper()
	h.need(t, c)
	return h.ctrIn(t, c.stdin, c.args(command)...)
}

// ctr is a call of ctr to its end.
func (h *host) ctr(t *testing.T, args ...string) peer.Result {
	t.Helper()
	return h.ctrIn(t, nil, args...)
}

func (h *host) ctrIn(t *testing.T, stdin io.Reader, args ...string) peer.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	r := h.Ctr(ctx, stdin, args...)
	if ctx.Err() != nil {
		t.Errorf("ctr %s did not end within %v", strings.Join(args, " "), callTimeout)
	}
	return r
}

// ok is a call of ctr that must succeed; it returns stdout.
func (h *host) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := h.ctr(t, args...)
	if r.Code != 0 {
		t.Fatalf("ctr %s: %+v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// detach starts a container in the background; remove it with remove.
func (h *host) detach(t *testing.T, c container, command ...string) {
	t.Helper()
	c.keep, c.flags = true, append([]string{"-d"}, c.flags...)
	if r := h.run(t, c, command...); r.Code != 0 {
		t.Fatalf("ctr run -d: %+v", r)
	}
}

// remove kills a container, deletes it and returns its exit status.
func (h *host) remove(t *testing.T, id string) int {
	t.Helper()
	if h.status(t, id) == "RUNNING" {
		h.ctr(t, "tasks", "kill", "-s", "KILL", id) // it may have exited meanwhile
	}
	return h.reap(t, id)
}

// reap waits until a container exits by itself, deletes it and returns its
// exit status.
func (h *host) reap(t *testing.T, id string) int {
	t.Helper()
	code := h.deleteTask(t, id)
	h.ok(t, "containers", "delete", id)
	return code
}

// nonZero is how "ctr tasks delete" reports an exit status: it prints nothing for 0.
var nonZero = regexp.MustCompile(`exit with non-zero exit code ([0-9]+)`)

// deleteTask waits for a task's exit, deletes it and returns its exit status.
func (h *host) deleteTask(t *testing.T, id string) int {
	t.Helper()
	h.await(t, id, "STOPPED")
	r := h.ctr(t, "tasks", "delete", id)
	if r.Code != 0 {
		t.Fatalf("ctr tasks delete: %+v", r)
	}
	m := nonZero.FindStringSubmatch(r.Stderr)
	if m == nil {
		return 0
	}
	code, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// status is the state "ctr tasks ls" prints for a task; empty when there is none.
func (h *host) status(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(h.ok(t, "tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// await returns when the task is in a state.
func (h *host) await(t *testing.T, id, state string) {
	t.Helper()
	eventually(t, fmt.Sprintf("task %s is %s", id, state), func() bool { return h.status(t, id) == state })
}

// eventually waits for a condition for as long as a call of ctr may take.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(callTimeout); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", callTimeout, what)
		}
	}
}

// running is a "ctr run" in the background whose output is read line by line.
type running struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	errs  strings.Builder
}

// start begins a "ctr run"; finish must be called.
func (h *host) start(t *testing.T, c container, command ...string) *running {
	t.Helper()
	h.need(t, c)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	t.Cleanup(cancel)
	r := &running{cmd: h.Command(ctx, c.args(command)...)}
	r.cmd.Stdin, r.cmd.Stderr = c.stdin, &r.errs
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.lines = bufio.NewScanner(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

// expect reads lines up to one that is want.
func (r *running) expect(t *testing.T, want string) {
	t.Helper()
	var seen []string
	for r.lines.Scan() {
		if r.lines.Text() == want {
			return
		}
		seen = append(seen, r.lines.Text())
	}
	_ = r.cmd.Wait() // the output is what the test is about
	t.Fatalf("output ended without %q: %q, stderr %q", want, seen, r.errs.String())
}

// finish reads what is left and returns the exit status of ctr.
func (r *running) finish() int {
	for r.lines.Scan() {
	}
	return peer.Code(r.cmd, r.cmd.Wait())
}
