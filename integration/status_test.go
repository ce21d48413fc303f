package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// seenMachine is what uni ps tells of one, as far as the tests look.
type seenMachine struct {
	Namespace, ID, Kind, State, Guest string
	Resident                          uint64
	Stages                            map[string]int64
	Containers                        []struct {
		ID, State string
		Started   time.Time
		Written   int64
		Used      *struct {
			CPU          uint64 `json:"cpuMicroseconds"`
			Memory, Pids uint64
		}
	}
}

// mustOperate is operate for what must not fail.
func (h *host) mustOperate(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.operate(t, args...)
	if err != nil {
		t.Fatalf("uni %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// machines is what uni ps lists.
func (h *host) machines(t *testing.T, args ...string) (list []seenMachine) {
	t.Helper()
	if err := json.Unmarshal([]byte(h.mustOperate(t, append([]string{"ps", "-a", "-o", "json"}, args...)...)), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestSeen: uni ps tells what the guest counts, and of a shim that was killed.
func TestSeen(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		r := h.start(t, container{}, "sh", "-c", "dd if=/dev/zero of=/file bs=1M count=9; sync; echo ready; sleep 1000 & wait")
		r.expect(t, "ready")
		list := h.machines(t)
		if len(list) != 1 || len(list[0].Containers) != 1 {
			t.Fatalf("%+v", list)
		}
		m, c := list[0], list[0].Containers[0]
		if m.Namespace != h.Namespace || m.State != "up" || m.Guest != "linux" || m.Resident < 1<<20 || m.Stages["boot"] == 0 {
			t.Errorf("%+v", m)
		}
		if c.Used == nil || c.Used.Pids < 2 || c.Used.CPU == 0 || c.Used.Memory == 0 || c.Written < 9<<20 || c.Started.IsZero() {
			t.Errorf("%+v uses %+v", c, c.Used)
		}
		if text := h.mustOperate(t, "ps", c.ID); !strings.Contains(text, "running") || !strings.Contains(text, fmt.Sprint(c.Used.Pids)) {
			t.Errorf("as a table:\n%s", text)
		}
		if text := h.mustOperate(t, "logs", "--console", c.ID); text != "" && !strings.HasSuffix(text, "\n") {
			t.Errorf("console: %q", text)
		}
		kill(t, h.shims(t))
		if text := h.mustOperate(t, "ps"); !strings.Contains(text, "its shim is gone") && strings.Contains(text, c.ID) {
			t.Errorf("after its shim was killed:\n%s", text)
		}
		r.finish()
		h.RemoveAll(t.Context())
		eventually(t, "nothing is listed", func() bool { return len(h.machines(t)) == 0 })
	})
}

// TestPodSeen: a pod's containers are those of one machine.
func TestPodSeen(t *testing.T) {
	onNodes(t, func(t *testing.T, n *node) {
		p := n.runPod(t, object{})
		first, second := p.run(t, object{}, "sleep 1000"), p.run(t, object{}, "sleep 1000")
		list := n.machines(t)
		if len(list) != 1 || list[0].Kind != "pod" || list[0].ID != p.id || len(list[0].Containers) != 2 ||
			list[0].Containers[0].ID != first || list[0].Containers[1].ID != second {
			t.Errorf("%+v", list)
		}
		n.do(t, "stopp", p.id)
		n.do(t, "rmp", p.id)
	})
}
