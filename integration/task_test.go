package integration

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"containerd-shim-uni/integration/peer"
)

// trap is a program that says "ready", then exits with a status of its own for
// each of the signals.
const trap = `for s in TERM HUP USR1; do trap "echo $s; exit $((40 + $(kill -l $s)))" $s; done
echo ready; while :; do sleep 0.05; done`

func TestSignals(t *testing.T) {
	tests := []struct {
		signal string
		status int
	}{{"TERM", 55}, {"HUP", 41}, {"USR1", 50}, {"KILL", 137}}
	on(t, func(t *testing.T, h *host) {
		for _, tt := range tests {
			r := h.start(t, container{}, "sh", "-c", trap)
			r.expect(t, "ready")
			h.ok(t, "tasks", "kill", "-s", tt.signal, "c1")
			if tt.signal != "KILL" {
				r.expect(t, tt.signal)
			}
			if got := r.finish(); got != tt.status {
				t.Errorf("SIG%s: status %d, want %d", tt.signal, got, tt.status)
			}
		}
	})
}

func TestTerminalResizes(t *testing.T) {
	const program = `wait_size() { until [ "$(stty size)" = "$1" ]; do sleep 0.05; done; echo "size $1"; }
wait_size "30 100"; wait_size "40 120"; read line; echo "got $line"; exit 5`
	on(t, func(t *testing.T, h *host) {
		cmd := h.Command(t.Context(), container{flags: []string{"-t"}}.args([]string{"sh", "-c", program})...)
		term := inTerminal(t, cmd, 100, 30)
		term.expect(t, "size 30 100\n")
		term.resize(t, 120, 40)
		term.expect(t, "size 40 120\n")
		fmt.Fprint(term, "typed\r")
		term.expect(t, "got typed\n")
		if code := peer.Code(cmd, cmd.Wait()); code != 5 {
			t.Errorf("status %d, want 5; the terminal showed %q", code, term.text())
		}
	})
}

func TestTerminalInterrupts(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		cmd := h.Command(t.Context(), container{flags: []string{"-t"}}.args([]string{"sh", "-c",
			`trap "echo interrupted; exit 9" INT; echo ready; while :; do sleep 0.05; done`})...)
		term := inTerminal(t, cmd, 80, 24)
		term.expect(t, "ready\n")
		fmt.Fprint(term, "\x03")
		term.expect(t, "interrupted\n")
		if code := peer.Code(cmd, cmd.Wait()); code != 9 {
			t.Errorf("status %d, want 9", code)
		}
	})
}

func TestExec(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		exec := func(id string, args ...string) peer.Result {
			return h.ctrIn(t, strings.NewReader("to exec\n"), append([]string{"tasks", "exec", "--exec-id", id}, args...)...)
		}
		got := exec("e1", "c1", "sh", "-c", "echo out; echo err >&2; cat; exit 3")
		if want := (peer.Result{Stdout: "out\nto exec\n", Stderr: "err\n", Code: 3}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		got = exec("e2", "--user", "1000:1000", "--cwd", "/tmp", "c1", "sh", "-c", "id -u; id -g; pwd")
		if want := (peer.Result{Stdout: "1000\n1000\n/tmp\n"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		got = exec("e3", "c1", "nosuch")
		if want := `exec: "nosuch": executable file not found in $PATH`; got.Code == 0 || !strings.Contains(got.Stderr, want) {
			t.Errorf("got %+v, want a failure with %q", got, want)
		}
		if got := h.status(t, "c1"); got != "RUNNING" {
			t.Errorf("after the execs the container is %s", got)
		}
		if code := h.remove(t, "c1"); code != 137 {
			t.Errorf("status %d, want 137", code)
		}
	})
}

func TestExecsAtOnce(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				id := fmt.Sprintf("e%d", i)
				got := h.ctr(t, "tasks", "exec", "--exec-id", id, "c1", "sh", "-c", fmt.Sprintf("echo %s; exit %d", id, i))
				if want := (peer.Result{Stdout: id + "\n", Code: i}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		}
		wg.Wait()
		h.remove(t, "c1")
	})
}

func TestExecInTerminal(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		cmd := h.Command(t.Context(), "tasks", "exec", "-t", "--exec-id", "e1", "c1", "sh", "-c",
			`until [ "$(stty size)" = "30 100" ]; do sleep 0.05; done; echo sized; read line; echo "got $line"; exit 6`)
		term := inTerminal(t, cmd, 100, 30)
		term.expect(t, "sized\n")
		fmt.Fprint(term, "typed\r")
		term.expect(t, "got typed\n")
		if code := peer.Code(cmd, cmd.Wait()); code != 6 {
			t.Errorf("status %d, want 6", code)
		}
		h.remove(t, "c1")
	})
}

// An exec that is still running ends with the container.
func TestExecEndsWithContainer(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		cmd := h.Command(t.Context(), "tasks", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo ready; sleep 1000")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		h.ok(t, "tasks", "kill", "-s", "KILL", "c1")
		if code := peer.Code(cmd, cmd.Wait()); code != 137 {
			t.Errorf("the exec's status is %d, want 137", code)
		}
		h.remove(t, "c1")
	})
}

func TestPauseAndResume(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.pauseAndResume(t, container{}, "sh", "-c", "while :; do echo tick; sleep 0.02; done")
	})
}

// pauseAndResume runs a container whose program writes all the time.
func (h *host) pauseAndResume(t *testing.T, c container, command ...string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	c.flags = append(c.flags, "--log-uri", "file://"+log)
	h.detach(t, c, command...)
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	eventually(t, "the container writes", func() bool { return size() > 0 })
	h.ok(t, "tasks", "pause", "c1")
	if got := h.status(t, "c1"); got != "PAUSED" {
		t.Errorf("paused, it is %q", got)
	}
	// What was under way when it paused arrives; then nothing does.
	var before int64
	eventually(t, "the output stands still", func() bool {
		last := before
		before = size()
		h.ok(t, "tasks", "ls")
		return last == before
	})
	h.ok(t, "tasks", "resume", "c1")
	if got := h.status(t, "c1"); got != "RUNNING" {
		t.Errorf("resumed, it is %q", got)
	}
	eventually(t, "the container writes again", func() bool { return size() > before })
	h.remove(t, "c1")
}

func TestListPsMetrics(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		if ls := h.ok(t, "tasks", "ls"); !regexp.MustCompile(`(?m)^c1\s+[1-9][0-9]*\s+RUNNING`).MatchString(ls) {
			t.Errorf("tasks ls: %q", ls)
		}
		if ps := h.ok(t, "tasks", "ps", "c1"); !regexp.MustCompile(`(?m)^[1-9][0-9]*\s`).MatchString(ps) {
			t.Errorf("tasks ps: %q", ps)
		}
		// One sleeping program, not the machine around it.
		used := h.metric(t, "c1", `memory\.usage(?:_in_bytes)?`)
		if limit := h.metric(t, "c1", `memory\.(?:usage_limit|limit_in_bytes)`); used == 0 || used > 64<<20 || world.runtime == uniRuntime && limit != 256<<20 {
			t.Errorf("the container uses %d of %d bytes", used, limit)
		}
		if n := h.metric(t, "c1", `pids\.current`); n != 1 {
			t.Errorf("%d processes, want 1", n)
		}
		h.ok(t, "tasks", "pause", "c1")
		if n := h.metric(t, "c1", `pids\.current`); n != 1 {
			t.Errorf("paused: %d processes, want 1", n)
		}
		h.ok(t, "tasks", "resume", "c1")
		h.remove(t, "c1")
	})
}

// metric is a number that "ctr tasks metrics" prints, by a pattern of its name.
func (h *host) metric(t *testing.T, id, name string) uint64 {
	t.Helper()
	metrics := h.ok(t, "tasks", "metrics", id)
	m := regexp.MustCompile(name + `\s+([0-9]+)`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("tasks metrics: %q", metrics)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestContainerIsStartedAgain(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		h.detach(t, container{}, "sh", "-c", "exit 3")
		for range 2 { // the one that ran, then the one started here
			if code := h.deleteTask(t, "c1"); code != 3 {
				t.Errorf("status %d, want 3", code)
			}
			h.ok(t, "tasks", "start", "-d", "c1")
		}
		h.remove(t, "c1")
	})
}

// (The shim of runc answers Wait before it sends the exit's event.)
func TestEventsInOrder(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		cmd := h.Command(t.Context(), "events")
		var seen lockedBuffer
		cmd.Stdout = &seen
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The subscription has no answer: events of containers made until one
		// is seen show that it stands.
		for i := 0; !strings.Contains(seen.String(), "/containers/delete"); i++ {
			id := fmt.Sprintf("probe%d", i)
			h.ok(t, "containers", "create", "--runtime", world.runtime, busybox, id)
			h.ok(t, "containers", "delete", id)
		}
		if r := h.run(t, container{}, "sh", "-c", "exit 4"); r.Code != 4 {
			t.Errorf("got %+v", r)
		}
		eventually(t, "the task's deletion is an event", func() bool { return strings.Contains(seen.String(), "/tasks/delete") })
		_ = cmd.Process.Kill() // it runs until then
		_ = cmd.Wait()
		topics := regexp.MustCompile(`/tasks/[a-z]+`).FindAllString(seen.String(), -1)
		if want := []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}; !slices.Equal(topics, want) {
			t.Errorf("got %v, want %v", topics, want)
		}
	})
}

func TestContainerdRestarts(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			h.detach(t, container{}, "sleep", "1000")
			pid := h.ok(t, "tasks", "ls")
			if err := h.Restart(t.Context(), sig); err != nil {
				t.Fatal(err)
			}
			if again := h.ok(t, "tasks", "ls"); again != pid {
				t.Errorf("after %v: tasks %q, before %q", sig, again, pid)
			}
			if r := h.ctr(t, "tasks", "exec", "--exec-id", "e1", "c1", "echo", "alive"); r.Stdout != "alive\n" {
				t.Errorf("after %v: exec: %+v", sig, r)
			}
			if code := h.remove(t, "c1"); code != 137 {
				t.Errorf("after %v: status %d, want 137", sig, code)
			}
		}
	})
}

// A container that exits while containerd is away is found exited. (With runc
// containerd removes the task.)
func TestExitWhileContainerdIsAway(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		dir := t.TempDir()
		h.detach(t, container{flags: []string{"--mount", "type=bind,src=" + dir + ",dst=/host,options=rbind:rw"}},
			"sh", "-c", "until [ -e /host/go ]; do sleep 0.05; done; touch /host/gone; exit 23")
		if err := h.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the container ran on", func() bool { return exists(filepath.Join(dir, "gone")) })
		if err := h.Restart(t.Context(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.await(t, "c1", "STOPPED")
		if code := h.remove(t, "c1"); code != 23 {
			t.Errorf("status %d, want 23", code)
		}
	})
}
