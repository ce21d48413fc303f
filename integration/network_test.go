package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What networks do does not depend on containerd's version, so these tests run
// against the newest only.
func newest() string { return versions[len(versions)-1] }

// onNewest is on for that one.
func onNewest(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	uniOnly(t)
	h := hostOf(t, newest())
	h.watch(t)
	test(t, h)
}

// netns is a network namespace that a test made.
type netns string

// newNetns makes one that lives as long as the test.
func newNetns(t *testing.T, name string) netns {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--net="+path, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("make a network namespace: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, syscall.MNT_DETACH) }) // the test may have done it
	return netns(path)
}

// sh runs a script in the namespace and returns what it printed.
func (n netns) sh(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+string(n), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace: %s\n%v: %s", script, err, out)
	}
	return string(out)
}

// pod makes two namespaces joined by veth pairs of the given names, the names
// being those in the first one, which is the container's.
func pod(t *testing.T, links ...string) (inside, outside netns) {
	t.Helper()
	inside, outside = newNetns(t, "pod"), newNetns(t, "peer")
	for _, l := range links {
		outside.sh(t, fmt.Sprintf(`ip link add %s type veth peer name %s netns %s; ip link set %s up`, l, l, inside, l))
		inside.sh(t, "ip link set "+l+" up")
	}
	return inside, outside
}

func join(n netns) []string { return []string{"--with-ns", "network:" + string(n)} }

// contains fails the test unless every want is in got.
func contains(t *testing.T, got string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(got, w) {
			t.Errorf("%q is not in:\n%s", w, got)
		}
	}
}

func TestNetworkDualStack(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "net7")
		outside.sh(t, `ip addr add 192.0.2.1/24 dev net7; ip addr add 2001:db8::1/64 dev net7 nodad`)
		inside.sh(t, `
			ip link set net7 mtu 1400 address 0a:58:c0:00:02:02
			ip addr add 192.0.2.2/24 dev net7; ip addr add 198.51.100.5/28 dev net7
			ip addr add 2001:db8::2/64 dev net7 nodad
			ip route add default via 192.0.2.1
			ip route add 203.0.113.0/24 via 192.0.2.9 metric 42
			ip -6 route add default via 2001:db8::1`)
		got := h.run(t, container{flags: join(inside)}, "sh", "-c", `
			ip addr show net7; ip route; ip -6 route
			ping -c 1 -W 10 192.0.2.1 && ping -6 -c 1 -W 10 2001:db8::1`)
		if got.Code != 0 {
			t.Errorf("%+v", got)
		}
		contains(t, got.Stdout,
			"mtu 1400", "link/ether 0a:58:c0:00:02:02", "inet 192.0.2.2/24", "inet 198.51.100.5/28", "inet6 2001:db8::2/64",
			"default via 192.0.2.1 dev net7", "203.0.113.0/24 via 192.0.2.9 dev net7", "metric 42", "default via 2001:db8::1 dev net7")
	})
}

// TestNetworkPointToPoint is what the ptp plugin and others make: no prefix
// covers the gateway. Frames are large.
func TestNetworkPointToPoint(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip link set eth0 mtu 9000; ip addr add 10.1.1.1/32 dev eth0; ip route add 10.1.1.2/32 dev eth0`)
		inside.sh(t, `
			ip link set eth0 mtu 9000; ip addr add 10.1.1.2/32 dev eth0
			ip route add 10.1.1.1/32 dev eth0 scope link; ip route add default via 10.1.1.1`)
		got := h.run(t, container{flags: join(inside)}, "sh", "-c", `ip route; ping -c 1 -W 10 -s 8000 10.1.1.1`)
		if got.Code != 0 {
			t.Errorf("%+v", got)
		}
		contains(t, got.Stdout, "default via 10.1.1.1", "10.1.1.1 dev eth0", "8008 bytes from 10.1.1.1")
	})
}

// TestNetworkTwoInterfaces: their names come through although the guest's
// kernel counts in another order.
func TestNetworkTwoInterfaces(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth1", "eth0")
		outside.sh(t, `ip addr add 10.0.1.1/24 dev eth1; ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.1.2/24 dev eth1; ip addr add 10.0.0.2/24 dev eth0`)
		got := h.run(t, container{flags: join(inside)}, "sh", "-c",
			`ip -o -4 addr; ping -c 1 -W 10 -I eth0 10.0.0.1 && ping -c 1 -W 10 -I eth1 10.0.1.1`)
		if got.Code != 0 {
			t.Errorf("%+v", got)
		}
		contains(t, got.Stdout, "eth0    inet 10.0.0.2/24", "eth1    inet 10.0.1.2/24")
	})
}

func TestNetworkMacvlan(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := newNetns(t, "pod"), newNetns(t, "peer")
		outside.sh(t, fmt.Sprintf(`
			ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up
			ip addr add 10.9.0.1/24 dev up1
			ip link add link up0 name mv0 netns %s type macvlan mode bridge`, inside))
		inside.sh(t, `ip link set mv0 up; ip addr add 10.9.0.2/24 dev mv0`)
		if got := h.run(t, container{flags: join(inside)}, "ping", "-c", "1", "-W", "10", "10.9.0.1"); got.Code != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestNetworkServes moves more than fits in any buffer, both ways, with two
// virtual CPUs, whose interface has two queues.
func TestNetworkServes(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		flags := append(join(inside), "--annotation", "io.containerd.uni.vcpus=2")
		h.detach(t, container{flags: flags}, "sh", "-c",
			`seq 1 400000 >/tmp/f; sleep 1000 | nc -l -p 81 >/tmp/in & httpd -f -p 80 -h /tmp`)
		var sum string
		eventually(t, "the container serves", func() bool {
			sum = outside.sh(t, `busybox wget -q -O /dev/stdout http://10.0.0.2/f 2>/dev/null | md5sum`)
			return !strings.HasPrefix(sum, "d41d8cd98f00b204e9800998ecf8427e") // nothing came
		})
		if want := outside.sh(t, `seq 1 400000 | md5sum`); want != sum {
			t.Errorf("what was served has the sum %s, want %s", sum, want)
		}
		outside.sh(t, `seq 1 400000 | busybox nc -w 60 10.0.0.2 81`)
		eventually(t, "what was sent has arrived", func() bool {
			return h.ctr(t, "tasks", "exec", "--exec-id", "e1", "c1", "cmp", "/tmp/in", "/tmp/f").Code == 0
		})
		h.remove(t, "c1")
		// The interface is as it was: the namespace answers by itself again.
		outside.sh(t, `busybox ping -c 1 -W 10 10.0.0.2`)
	})
}

// TestNetworkForgedSender: a guest that may configure its interfaces still
// cannot speak for another host.
func TestNetworkForgedSender(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		got := h.run(t, container{flags: append(join(inside), "--cap-add", "CAP_NET_ADMIN")}, "sh", "-c", `
			ip addr add 10.0.0.77/24 dev eth0
			ping -c 1 -W 10 10.0.0.1 >/dev/null && echo own
			ping -c 1 -W 1 -I 10.0.0.77 10.0.0.1 >/dev/null || echo no other address
			ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:99; ip link set eth0 up
			ping -c 1 -W 1 10.0.0.1 >/dev/null || echo no other MAC`)
		if want := "own\nno other address\nno other MAC\n"; got.Stdout != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	})
}

func TestNetworkRefused(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, _ := pod(t, "eth0")
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		h.detach(t, container{id: "first", flags: join(inside)}, "sleep", "1000")
		defer h.remove(t, "first")
		for name, test := range map[string]struct {
			flags []string
			want  string
		}{
			"host network":      {[]string{"--net-host"}, "host's network"},
			"taken interface":   {join(inside), "already carries another machine"},
			"another's network": {[]string{"--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", os.Getpid())}, "another process"},
			"no namespace":      {[]string{"--with-ns", "network:" + h.Dir}, "is not a network namespace"},
		} {
			got := h.run(t, container{id: "second", flags: test.flags}, "true")
			if got.Code == 0 || !strings.Contains(got.Stderr, test.want) {
				t.Errorf("%s: %+v, want an error with %q", name, got, test.want)
			}
		}
	})
}

// TestNetworkVanishes: the namespace is deleted under a running container, as
// when CNI's DEL comes before the runtime's delete.
func TestNetworkVanishes(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, _ := pod(t, "eth0")
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		h.detach(t, container{flags: join(inside)}, "sleep", "1000")
		inside.sh(t, `ip link del eth0`)
		if err := syscall.Unmount(string(inside), syscall.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		h.remove(t, "c1")
	})
}

// TestNetworkShimKilled: containerd cleans up after a killed shim, and the
// namespace can be used again.
func TestNetworkShimKilled(t *testing.T) {
	onNewest(t, func(t *testing.T, h *host) {
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		h.detach(t, container{flags: join(inside)}, "sleep", "1000")
		kill(t, h.find(t, shim))
		eventually(t, "the tap is gone", func() bool { return !strings.Contains(inside.sh(t, "ip link"), "uni") })
		outside.sh(t, `busybox ping -c 1 -W 10 10.0.0.2`)
		h.RemoveAll(t.Context())
	})
}
