package integration

import (
	"strings"
	"testing"
)

// TestPodOfOneProcessNamespace: containers that ask for the pod's PID namespace, as
// with shareProcessNamespace, see each other's processes; the end of one ends its own
// alone. A debug container sees those of its target.
func TestPodOfOneProcessNamespace(t *testing.T) {
	onNodes(t, func(t *testing.T, n *node) {
		options := func(pid int, target string) object {
			return object{"linux": object{"security_context": object{"namespace_options": object{"pid": pid, "target_id": target}}}}
		}
		p := n.runPod(t, object{"security_context": object{"namespace_options": object{"pid": 0}}})
		first := p.run(t, options(0, ""), "sleep 1000")
		second := p.run(t, options(0, ""), "sleep 2000")
		apart := p.run(t, options(1, ""), "sleep 3000")
		beside := p.run(t, options(3, apart), "sleep 4000")
		const list = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep [1-4]000' | sort -u | tr '\\n' ' '"
		for id, want := range map[string]string{
			first: "sleep 1000 sleep 2000", second: "sleep 1000 sleep 2000", apart: "sleep 3000 sleep 4000", beside: "sleep 3000 sleep 4000",
		} {
			if got := strings.TrimSpace(n.do(t, "exec", "-s", id, "sh", "-c", list)); got != want {
				t.Errorf("one sees %q, want %q", got, want)
			}
		}
		n.do(t, "stop", "-t", "0", first)
		n.do(t, "stop", "-t", "0", beside)
		for id, want := range map[string]string{second: "sleep 2000", apart: "sleep 3000"} {
			if got := strings.TrimSpace(n.do(t, "exec", "-s", id, "sh", "-c", list)); got != want {
				t.Errorf("afterwards one sees %q, want %q", got, want)
			}
		}
		n.do(t, "stopp", p.id)
		n.do(t, "rmp", p.id)
	})
}
