package integration

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// onLoopback serves a page to its own machine alone.
var onLoopback = []string{"sh", "-c", `echo page of $HOSTNAME >/tmp/index.html; exec httpd -f -p 127.0.0.1:80 -h /tmp`}

// fetch prints a page.
const fetch = "busybox wget -q -O -"

// namespaceOf is the network namespace that clients find by a task's number.
func (h *host) namespaceOf(t *testing.T, id string) netns {
	t.Helper()
	for line := range strings.Lines(h.ok(t, "tasks", "ls")) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == id {
			return netns("/proc/" + f[1] + "/ns/net")
		}
	}
	t.Fatalf("there is no task %s", id)
	return ""
}

// TestForward: what connects on the host to an address of a container's namespace
// reaches its server, also one that only the machine itself can: in a namespace of
// the container's own, in one that others made, and again after a restart there.
// Afterwards the namespace is as it was.
func TestForward(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		const look = `tc qdisc show dev lo; ss -Hltn`
		before := inside.sh(t, look)
		for i, flags := range [][]string{nil, join(inside), join(inside)} {
			h.detach(t, container{flags: flags}, onLoopback...)
			ns := h.namespaceOf(t, "c1")
			for _, host := range []string{"127.0.0.1", "[::1]"} {
				ns.expect(t, fetch+" http://"+host+"/", "page of")
			}
			if out, err := exec.Command("nsenter", "--net="+string(ns), "sh", "-c", fetch+" http://127.0.0.1:81/").Output(); err == nil {
				t.Errorf("run %d: a port where nobody listens: %s", i, out)
			}
			h.remove(t, "c1")
			if after := inside.sh(t, look); after != before {
				t.Errorf("run %d: the namespace had\n%sand has\n%s", i, before, after)
			}
		}

		// The pod's address is the machine's, and reached as its own.
		h.detach(t, container{flags: join(inside)}, "sh", "-c", `echo page >/tmp/index.html; exec httpd -f -p 10.0.0.2:80 -h /tmp`)
		for _, n := range []netns{inside, outside} {
			n.expect(t, fetch+" http://10.0.0.2/", "page")
		}
		// A killed shim leaves nothing that is in the way.
		kill(t, h.find(t, shim))
		h.RemoveAll(t.Context())
		eventually(t, "the namespace is as it was", func() bool { return inside.sh(t, look) == before })
	})
}

// TestForwardNerdctl: the same on a network of nerdctl's, while its published port is
// answered, too.
func TestForwardNerdctl(t *testing.T) {
	uniOnly(t)
	s := newSite(t)
	s.load(t, busybox)
	s.do(t, "network", "create", "--subnet", "10.77.0.0/24", "one")
	defer s.do(t, "network", "rm", "one")
	run := append([]string{"run", "-d", "--runtime", uniRuntime, "--name", "web", "--network", "one", "-p", "127.0.0.1:8080:81", busybox},
		"sh", "-c", `echo page >/tmp/index.html; httpd -p 81 -h /tmp; exec httpd -f -p 127.0.0.1:80 -h /tmp`)
	s.do(t, run...)
	defer s.do(t, "rm", "-f", "web")
	pid, err := strconv.Atoi(strings.TrimSpace(s.do(t, "inspect", "-f", "{{.State.Pid}}", "web")))
	if err != nil {
		t.Fatal(err)
	}
	web := netns(fmt.Sprintf("/proc/%d/ns/net", pid))
	for _, port := range []string{"80", "81"} {
		web.expect(t, fetch+" http://127.0.0.1:"+port+"/", "page")
	}
	s.netns.expect(t, fetch+" http://127.0.0.1:8080/", "page")
}
