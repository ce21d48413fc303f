package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// templateRow is what "uni template ls" says of one.
type templateRow struct {
	Shape, Bad string
	Used       time.Time
}

// uniCommand calls uni with the host's configuration.
func (h *host) uniCommand(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(world.out, "bin/uni"), append([]string{"--config", h.config}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("uni %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), err
}

// templates lists those of the host.
func (h *host) templates(t *testing.T) (rows []templateRow) {
	t.Helper()
	out, err := h.uniCommand(t, "template", "ls", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &rows)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// makeTemplate makes that of the usual container and returns its file.
func (h *host) makeTemplate(t *testing.T) (shape, state string) {
	t.Helper()
	if _, err := h.uniCommand(t, "template", "make"); err != nil {
		t.Fatal(err)
	}
	for _, r := range h.templates(t) {
		if r.Bad == "" {
			return r.Shape, filepath.Join(h.data, "templates", r.Shape, "state")
		}
	}
	t.Fatal("no template was made")
	return "", ""
}

// makers are processes that make templates for the host.
func (h *host) makers() (pids []int) {
	for _, pid := range h.Processes() {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(line, []byte("\x00template\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// awaitMakers returns when no template is being made.
func (h *host) awaitMakers(t *testing.T) {
	t.Helper()
	eventually(t, "templates are made", func() bool { return len(h.makers()) == 0 })
}

// machine returns the process id and the command line of a container's machine.
func (h *host) machine(t *testing.T, id string) (pid int, line string) {
	t.Helper()
	name := "guest=" + unikernel.DomainName(h.Namespace, id) + ","
	for _, pid := range h.Processes() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), name) {
			return pid, string(line)
		}
	}
	t.Errorf("container %s has no machine", id)
	return 0, ""
}

// forked says whether the machine of a container that runs goes on from a template.
func (h *host) forked(t *testing.T, id string) bool {
	t.Helper()
	pid, line := h.machine(t, id)
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		t.Logf("the machine of %s has used %s0 ms of processors' time, and %s0 in the kernel", id, f[11], f[12])
	}
	return strings.Contains(line, "\x00-incoming\x00")
}

// onOwnHost runs a test on a containerd of its own, which has no templates yet.
func onOwnHost(t *testing.T, folder string, test func(*testing.T, *host)) {
	t.Helper()
	uniOnly(t)
	h, err := newHost(t.Context(), newest(), folder, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.end(); err != nil {
			t.Error(err)
		}
	})
	h.load(t, busybox, hello)
	h.watch(t)
	test(t, h)
}

// TestTemplateIsMade: the first container's machine boots, a template is made beside
// it, and the second's goes on from there.
func TestTemplateIsMade(t *testing.T) {
	onOwnHost(t, "made", func(t *testing.T, h *host) {
		h.detach(t, container{}, "sleep", "1000")
		if h.forked(t, "c1") {
			t.Error("the first machine did not boot")
		}
		h.remove(t, "c1")
		h.awaitMakers(t)
		rows := h.templates(t)
		if len(rows) != 1 || rows[0].Bad != "" {
			t.Fatalf("templates %+v", rows)
		}
		h.detach(t, container{}, "sleep", "1000")
		if !h.forked(t, "c1") {
			t.Error("the second machine booted")
		}
		h.remove(t, "c1")
		// Another kernel, although its content is the same, is another shape.
		kernel := filepath.Join(h.Dir, "vmlinux")
		data, err := os.ReadFile(filepath.Join(world.out, "guest/vmlinux"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kernel, data, 0o644); err != nil {
			t.Fatal(err)
		}
		h.with(t, settings{"linux.kernel": strconv.Quote(kernel)})
		h.detach(t, container{}, "sleep", "1000")
		if h.forked(t, "c1") {
			t.Error("a template of another kernel was used")
		}
		h.remove(t, "c1")
		h.with(t, settings{"machine.template": `"off"`})
		h.detach(t, container{}, "sleep", "1000")
		if h.forked(t, "c1") {
			t.Error("a template was used although they are off")
		}
		h.remove(t, "c1")
	})
}

// clones is how many machines must be told apart.
const clones = 8

// TestClonesDiffer: nothing of what is one machine's is another's, or its template's.
func TestClonesDiffer(t *testing.T) {
	onOwnHost(t, "diff", func(t *testing.T, h *host) {
		h.makeTemplate(t)
		time.Sleep(3 * time.Second) // a clock that is the template's is behind by more than is allowed
		const script = `head -c16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/uuid
cat /proc/self/auxv | md5sum; hostname; date +%s; cat /etc/hostname 2>/dev/null; exec sleep 1000`
		type answer struct {
			lines []string
			asked time.Time
		}
		answers := make([]answer, clones)
		var running sync.WaitGroup
		for i := range clones {
			running.Go(func() {
				id := fmt.Sprintf("clone%d", i)
				out := filepath.Join(h.Dir, id+".out")
				h.detach(t, container{id: id, flags: []string{"--hostname", "host-" + id, "--log-uri", "file://" + out}}, "sh", "-c", script)
				answers[i].asked = time.Now()
				eventually(t, "the container speaks", func() bool {
					text, _ := os.ReadFile(out)
					answers[i].lines = strings.Split(strings.TrimSpace(string(text)), "\n")
					return len(answers[i].lines) >= 6
				})
			})
		}
		running.Wait()
		seen := map[string]int{}
		if t.Failed() {
			return
		}
		for i, a := range answers {
			if !h.forked(t, fmt.Sprintf("clone%d", i)) {
				t.Errorf("clone %d booted", i)
			}
			for _, line := range a.lines[:4] {
				if other, there := seen[line]; there {
					t.Errorf("clones %d and %d say %q", other, i, line)
				}
				seen[line] = i
			}
			if want := fmt.Sprintf("host-clone%d", i); a.lines[4] != want {
				t.Errorf("host name %q, want %q", a.lines[4], want)
			}
			now, err := strconv.ParseInt(a.lines[5], 10, 64)
			if err != nil || now > time.Now().Unix()+1 || now < a.asked.Add(-callTimeout/4).Unix() {
				t.Errorf("clone %d says that it is %s (%v), the start was at %d", i, a.lines[5], err, a.asked.Unix())
			}
		}
		for i := range clones {
			h.remove(t, fmt.Sprintf("clone%d", i))
		}
		// Exactly, by the question of another container.
		h.detach(t, container{}, "sleep", "1000")
		h.sameTime(t, "a clone", "e1")
		h.remove(t, "c1")
	})
}

// TestTemplateFaults: whatever becomes of a template, containers start.
func TestTemplateFaults(t *testing.T) {
	onOwnHost(t, "fault", func(t *testing.T, h *host) {
		for what, damage := range map[string]func(state string) error{
			"cut":     func(state string) error { return os.Truncate(state, 1<<20) },
			"emptied": func(state string) error { return os.Truncate(state, 0) },
			"changed": func(state string) error {
				f, err := os.OpenFile(state, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt(bytes.Repeat([]byte{0xcc}, 1<<20), 8<<20)
				return err
			},
		} {
			shape, state := h.makeTemplate(t)
			if err := damage(state); err != nil {
				t.Fatal(err)
			}
			if out, err := h.uniCommand(t, "template", "verify"); err == nil {
				t.Errorf("%s: uni template verify: %s", what, out)
			}
			h.says(t, what)
			rows := h.templates(t)
			if len(rows) != 1 || rows[0].Shape != shape || rows[0].Bad == "" {
				t.Errorf("%s: templates %+v", what, rows)
			}
		}
		h.vanishing(t)
		h.killedMaker(t)
		h.with(t, settings{"storage.min_free": `"1000TiB"`, "machine.memory_mib": "96"})
		if _, err := h.uniCommand(t, "template", "make"); err == nil || !strings.Contains(err.Error(), "storage.min_free") {
			t.Errorf("a full disk: %v", err)
		}
	})
}

// says runs a container to its end.
func (h *host) says(t *testing.T, what string) {
	t.Helper()
	if got := h.run(t, container{}, "echo", "hello"); got.Code != 0 || got.Stdout != "hello\n" {
		t.Errorf("%s: %+v", what, got)
	}
}

// together is how many containers boot at once.
const together = 3

// vanishing: templates go while machines load them.
func (h *host) vanishing(t *testing.T) {
	t.Helper()
	shape, _ := h.makeTemplate(t)
	var running sync.WaitGroup
	for i := range together {
		running.Go(func() {
			c := container{id: fmt.Sprintf("v%d", i)}
			if got := h.run(t, c, "echo", "hello"); got.Code != 0 || got.Stdout != "hello\n" {
				t.Errorf("a template vanishes: %+v", got)
			}
		})
		if i == together/2 {
			if _, err := h.uniCommand(t, "template", "rm", shape); err != nil {
				t.Error(err)
			}
		}
	}
	running.Wait()
	h.awaitMakers(t)
}

// killedMaker: who makes templates is killed at several moments. The next one finds
// what is left.
func (h *host) killedMaker(t *testing.T) {
	t.Helper()
	if _, err := h.uniCommand(t, "template", "rm", "--all"); err != nil {
		t.Fatal(err)
	}
	before := h.checker()
	for _, after := range []time.Duration{100 * time.Millisecond, 2 * time.Second, 8 * time.Second} {
		h.says(t, "a maker is killed") // and a maker is started
		for _, pid := range h.makers() {
			time.Sleep(after)
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // it may have ended
			}
		}
		h.awaitMakers(t)
		if _, err := h.uniCommand(t, "template", "rm", "--all"); err != nil {
			t.Fatal(err)
		}
	}
	h.makeTemplate(t)
	nothingLeft(t, before)
}

// TestTemplateOfEveryMachine: other machine types have templates, too, and what is
// attached to them is found by a container that goes on from one.
func TestTemplateOfEveryMachine(t *testing.T) {
	onOwnHost(t, "kinds", func(t *testing.T, h *host) {
		for _, kind := range []string{"q35", "pc"} {
			h.with(t, settings{"linux.machine": strconv.Quote(kind)})
			if _, err := h.uniCommand(t, "template", "make", "--interfaces", "1"); err != nil {
				t.Fatal(err)
			}
			inside, outside := pod(t, "eth0")
			outside.sh(t, "ip addr add 192.0.2.1/24 dev eth0")
			inside.sh(t, "ip link set eth0 address 0a:58:c0:00:02:02; ip addr add 192.0.2.2/24 dev eth0")
			h.detach(t, container{flags: join(inside)}, "sleep", "1000")
			if !h.forked(t, "c1") {
				t.Errorf("%s: the machine booted", kind)
			}
			got := h.inContainer(t, "e1", "sh", "-c", "touch /new && ip addr show eth0 && ping -c 1 -W 10 192.0.2.1 && echo all right")
			contains(t, got, "0a:58:c0:00:02:02", "all right")
			h.remove(t, "c1")
		}
	})
}
