package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// podStep is one thing that a kubelet asks for in the life of a pod, and the moments
// of it at which something may die: when it is asked, and when containerd's log, which
// has the shim's too, holds one of these texts.
type podStep struct {
	name    string
	moments []string
	call    func(*podLife) []string // arguments of crictl
}

// podSteps are the life of a pod: two containers, of which the second is removed
// before the pod is stopped.
var podSteps = []podStep{
	{"run", []string{"stage=libvirt", "stage=machine", "topic=/tasks/create", "stage=boot"},
		func(l *podLife) []string { return []string{"runp", "--runtime", handler(), l.config} }},
	{"start", []string{"", "stage=disks ", `stage="disks attached"`, "topic=/tasks/start"},
		func(l *podLife) []string { return []string{"start", l.ids[1]} }},
	{"remove", []string{"", "topic=/tasks/exit", "topic=/tasks/delete"},
		func(l *podLife) []string { return []string{"rm", "-f", l.ids[1]} }},
	{"stop", []string{"", "topic=/tasks/exit", `stage="disks detached"`, "stage=release"},
		func(l *podLife) []string { return []string{"stopp", l.id} }},
}

// victims are what may die of a pod. With all but a client the pod does.
var victims = []struct {
	name string
	find func(*testing.T, *podLife) []int
}{
	{"shim", func(t *testing.T, l *podLife) []int { return l.shims(t) }},
	{"machine", func(t *testing.T, l *podLife) []int { return l.find(t, "qemu-system") }},
	{"virtiofsd", func(t *testing.T, l *podLife) []int { return l.find(t, "virtiofsd:") }},
	{"stand-in", func(t *testing.T, l *podLife) []int { return l.standIns(t, l.id) }},
	{"client", func(_ *testing.T, l *podLife) []int { return []int{l.client.Process.Pid} }},
}

var allFaults = os.Getenv("UNI_TEST_FAULTS") == "all"

// podLife is a pod that something befalls.
type podLife struct {
	*sandbox
	ids    []string // its containers
	client *exec.Cmd
	over   chan struct{} // closed when the client has ended
	killed []int
}

// TestPodFaults: whatever of a pod dies, and whenever, it is removed like any other,
// nothing is left of it, its containers' events come in order, and the node runs the
// next one. By default something else dies at each moment, in turn; with
// UNI_TEST_FAULTS=all everything does at all of them.
func TestPodFaults(t *testing.T) {
	uniOnly(t)
	onAllNodes(t, func(t *testing.T, n *node) {
		events := n.events(t)
		turn := 0
		for _, step := range podSteps {
			for i, moment := range step.moments {
				turn++
				for j, v := range victims {
					// How these clean up after a shim and a client is their own.
					if (n.Version != newest() || n.CRI.SandboxAPI) && (i%2 == 0 || v.name != "shim" && v.name != "client") {
						continue
					}
					if !allFaults && j != turn%len(victims) && n.Version == newest() && !n.CRI.SandboxAPI {
						continue
					}
					// containerd 2.4 lets go of such a shim and does not tell it, nor calls delete,
					// see docs/pods.md.
					if n.CRI.SandboxAPI && step.name == "run" && v.name == "client" {
						continue
					}
					name := fmt.Sprintf("%s-%s-%s", step.name, strings.Trim(moment[strings.IndexAny(moment, "=")+1:], `"/ `), v.name)
					t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) { n.fault(t, events, step, moment, v.name, v.find) })
				}
			}
		}
	})
}

// fault lives a pod's life up to a step, in the course of which something is killed.
func (n *node) fault(t *testing.T, events *podEvents, step podStep, moment, victim string, find func(*testing.T, *podLife) []int) {
	t.Helper()
	c := n.checker()
	links := n.links(t)
	t.Cleanup(func() { n.cri(t, "", "rmp", "-f", "-a") }) // of one that failed
	l := &podLife{sandbox: &sandbox{node: n}}
	l.config, l.dir = n.podConfig(t, nil)
	for _, s := range podSteps {
		if s.name != "run" && l.id == "" {
			l.id = strings.TrimSpace(n.do(t, "pods", "-q"))
			shared := object{"mounts": []object{l.emptyDir(t, "shared", "/shared")}}
			l.ids = append(l.ids, l.run(t, shared, "sleep 1000"))
			l.ids = append(l.ids, l.create(t, shared, "sleep 1000"))
		}
		if s.name == step.name {
			l.begin(t, s.call(l)...)
			l.await(t, moment)
			l.killed = find(t, l)
			killAny(t, l.killed)
			<-l.over
			if l.id == "" { // it may not be there
				l.id = strings.TrimSpace(n.do(t, "pods", "-q"))
			}
			break
		}
		n.do(t, s.call(l)...)
	}
	if victim != "client" && len(l.killed) > 0 && l.id != "" {
		l.notReady(t)
	}
	l.removeAll(t)
	for _, pid := range l.killed {
		if syscall.Kill(pid, 0) == nil && alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	nothingLeft(t, c)
	if left := n.links(t); left != links {
		t.Errorf("links of the node: %q, before %q", left, links)
	}
	if left, _ := filepath.Glob(filepath.Join(n.Dir, "ipam/*/10.*")); len(left) > 0 { // the pattern is well formed
		t.Errorf("addresses are still taken: %q", left)
	}
	events.check(t, l, victim == "shim")
	t.Logf("killed %d", len(l.killed))
	if t.Failed() {
		t.Logf("containerd's log ends:\n%s", tail(n.Log(), 40))
	}
}

// alive says whether a process is there and no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// begin calls crictl in the background.
func (l *podLife) begin(t *testing.T, args ...string) {
	t.Helper()
	l.client = l.command(context.Background(), args...)
	if err := l.client.Start(); err != nil {
		t.Fatal(err)
	}
	l.over = make(chan struct{})
	go func() {
		defer close(l.over)
		_ = l.client.Wait() // whether it succeeds depends on what dies
	}()
}

// await returns when containerd's log holds a text that it did not when it was called,
// or the client has ended.
func (l *podLife) await(t *testing.T, mark string) {
	t.Helper()
	log, err := os.Open(l.Log())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := log.Seek(0, 2); err != nil {
		t.Fatal(err)
	}
	var said []byte
	part := make([]byte, 64<<10)
	for deadline := time.Now().Add(callTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		n, _ := log.Read(part) // its end is no error
		said = append(said, part[:n]...)
		if bytes.Contains(said, []byte(mark)) {
			return
		}
		select {
		case <-l.over:
			return
		default:
		}
	}
	t.Fatalf("containerd's log does not say %q within %v", mark, callTimeout)
}

// standIns are the processes that stand for a pod's own container.
func (n *node) standIns(t *testing.T, id string) []int {
	t.Helper()
	var found []int
	for _, shim := range n.shims(t) {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", shim)) // the pattern is well formed
		for _, file := range children {
			list, _ := os.ReadFile(file) // the thread may have ended
			for _, field := range strings.Fields(string(list)) {
				line, _ := os.ReadFile("/proc/" + field + "/cmdline")
				if !strings.HasPrefix(string(line), "uni-container\x00") || id != "" && !strings.Contains(string(line), id) {
					continue
				}
				if pid, err := strconv.Atoi(field); err == nil {
					found = append(found, pid)
				}
			}
		}
	}
	return found
}

// links are the network links of the node.
func (n *node) links(t *testing.T) string {
	t.Helper()
	return strings.Join(strings.Fields(n.netns.sh(t, `ip -o link | cut -d: -f2 | grep -v pods0`)), " ")
}

// notReady waits until CRI says of the pod what makes a kubelet replace it.
func (l *podLife) notReady(t *testing.T) {
	t.Helper()
	eventually(t, "the pod is not ready", func() bool {
		r := l.cri(t, "", "inspectp", "-o", "json", l.id)
		return r.Code != 0 || strings.Contains(r.Stdout, "SANDBOX_NOTREADY")
	})
	for _, id := range l.ids {
		r := l.cri(t, "", "inspect", "-o", "json", id)
		var s struct{ Status status }
		if r.Code != 0 { // it was removed
			continue
		}
		if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
			t.Fatal(err)
		}
		if s.Status.State == "CONTAINER_EXITED" && s.Status.ExitCode == 0 {
			t.Errorf("container %s: %+v", id, s.Status)
		}
	}
}

// removeAll removes all pods, trying as often as a kubelet would.
func (n *node) removeAll(t *testing.T) {
	t.Helper()
	if strings.HasPrefix(n.Version, "1.6.") {
		// It forgets a pod, and keeps its task, whose client goes before it has asked for
		// the task's number (containerd's RunPodSandbox, "failed to get task pid").
		defer n.RemoveAll(t.Context())
	}
	eventually(t, "the pods are removed", func() bool {
		n.cri(t, "", "rmp", "-f", "-a")
		return n.do(t, "pods", "-q") == ""
	})
}

// podEvents are the tasks' events of a node.
type podEvents struct{ seen lockedBuffer }

// taskEvent is one of them.
type taskEvent struct {
	topic     string
	Container string `json:"container_id"`
	ID        string `json:"id"`
	Status    int    `json:"exit_status"`
}

// events listens to containerd's for the rest of a test.
func (n *node) events(t *testing.T) *podEvents {
	t.Helper()
	e := &podEvents{}
	cmd := n.Command(context.Background(), "events")
	cmd.Stdout = &e.seen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	for i := 0; !strings.Contains(e.seen.String(), "/containers/delete"); i++ { // a subscription has no answer
		id := fmt.Sprintf("probe%d", i)
		n.ok(t, "containers", "create", "--runtime", world.runtime, busybox, id)
		n.ok(t, "containers", "delete", id)
	}
	return e
}

// of are the events of a pod's containers, in order.
func (e *podEvents) of(ids ...string) (all []taskEvent) {
	for line := range strings.Lines(e.seen.String()) {
		head, body, ok := strings.Cut(line, "{")
		fields := strings.Fields(head)
		var event taskEvent
		if !ok || json.Unmarshal([]byte("{"+body), &event) != nil || event.ID != "" && event.ID != event.Container {
			continue
		}
		event.topic, ok = strings.CutPrefix(fields[len(fields)-1], "/tasks/")
		if ok && slices.Contains(ids, event.Container) {
			all = append(all, event)
		}
	}
	return all
}

// check compares the events of a pod with what must hold: each container's in order
// and once, the pod's own exit after all others'. What containerd says in place of a
// dead shim is its own.
func (e *podEvents) check(t *testing.T, l *podLife, shimDied bool) {
	t.Helper()
	order := []string{"create", "start", "oom", "exit", "delete"}
	last := map[string]int{}
	running := map[string]bool{}
	for _, event := range e.of(append(l.ids, l.id)...) {
		at := slices.Index(order, event.topic)
		if at < 0 {
			continue
		}
		// By the sandbox API containerd tells of a pod's own container once more, as of one
		// whose shim has died, when it has told the shim to end.
		if l.CRI.SandboxAPI && event.Container == l.id && last[l.id] == len(order)-1 {
			continue
		}
		before, some := last[event.Container]
		if some && at <= before && !(shimDied && at == before) {
			t.Errorf("container %.12s: %s after %s", event.Container, event.topic, order[before])
		}
		last[event.Container] = at
		switch event.topic {
		case "create":
			running[event.Container] = true
		case "exit":
			delete(running, event.Container)
			if event.Container == l.id && len(running) > 0 && !shimDied {
				t.Errorf("the pod's exit comes before those of %v", running)
			}
			if event.Container != l.id && event.Status == 0 {
				t.Errorf("container %.12s exits with status 0", event.Container)
			}
		}
	}
	for id := range running {
		t.Errorf("container %.12s was created and has no exit", id)
	}
}
