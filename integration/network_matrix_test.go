package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// onGuests is onNewest once for each guest. Its subtests are skipped where the
// guest's kernel is not at hand.
func onGuests(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	uniOnly(t)
	for _, guest := range []string{"linux", "nanos"} {
		t.Run(guest, func(t *testing.T) {
			if guest == "nanos" {
				nanosOnly(t)
			}
			h := hostOf(t, newest())
			h.watch(t)
			h.with(t, guestSettings(guest))
			test(t, h)
		})
	}
}

func guestSettings(guest string) settings {
	s := settings{"guest": fmt.Sprintf("%q", guest)}
	if guest == "nanos" {
		s["nanos.kernel"] = fmt.Sprintf("%q", os.Getenv("UNI_NANOS_DIR"))
	}
	return s
}

// serve runs the program probe in a namespace: it answers on the addresses
// until the test ends.
func (n netns) serve(t *testing.T, addresses ...string) {
	t.Helper()
	program := filepath.Join(world.dir, "amd64", "probe")
	cmd := exec.Command("nsenter", append([]string{"--net=" + string(n), program, "serve"}, addresses...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it serves for ever
		_ = cmd.Wait()
	})
	if n, err := out.Read(make([]byte, 16)); n == 0 {
		t.Fatalf("the server did not start: %v", err)
	}
}

// probing is the command of a container that runs the program probe.
func probing(steps string) []string { return append([]string{"/probe"}, strings.Fields(steps)...) }

// setting is a network namespace a client may have prepared, and what a program
// sees of it.
type setting struct {
	links           []string // of the container's namespace
	inside, outside string   // scripts that set both ends up
	serve           []string // addresses at which the outside answers
	steps           string   // of the program probe
	want            []string // in its output
}

var networkSettings = map[string]setting{
	"IPv4": {
		links:   []string{"net7"},
		outside: `ip addr add 10.0.0.1/24 dev net7; ip addr add 203.0.113.1/32 dev lo`,
		inside:  `ip link set net7 address 0a:58:0a:00:00:02; ip addr add 10.0.0.2/24 dev net7; ip route add default via 10.0.0.1`,
		serve:   []string{"10.0.0.1:80", "203.0.113.1:80"},
		steps:   "interfaces then get http://10.0.0.1/ http://203.0.113.1/ then udp 203.0.113.1:80 1400",
		want:    []string{"mtu 1500 mac 0a:58:0a:00:00:02 10.0.0.2/24", "you are 10.0.0.2\nyou are 10.0.0.2\n1400 bytes came back, the same: true\n"},
	},
	"IPv6": {
		links:   []string{"eth0"},
		outside: `ip addr add 2001:db8::1/64 dev eth0 nodad`,
		inside:  `ip addr add 2001:db8::2/64 dev eth0 nodad`,
		serve:   []string{"[2001:db8::1]:80"},
		steps:   "interfaces then get http://[2001:db8::1]/ then udp [2001:db8::1]:80 1400",
		want:    []string{"2001:db8::2/64", "you are 2001:db8::2\n1400 bytes came back, the same: true\n"},
	},
	"dual stack": {
		links:   []string{"eth0"},
		outside: `ip addr add 10.0.0.1/24 dev eth0; ip addr add fd00::1/64 dev eth0 nodad`,
		inside:  `ip addr add 10.0.0.2/24 dev eth0; ip addr add fd00::2/64 dev eth0; ip route add default via 10.0.0.1; ip -6 route add default via fd00::1`,
		serve:   []string{"10.0.0.1:80", "[fd00::1]:80"},
		steps:   "interfaces then get http://10.0.0.1/ http://[fd00::1]/",
		want:    []string{"10.0.0.2/24", "fd00::2/64", "you are 10.0.0.2\nyou are fd00::2\n"},
	},
	"point to point, jumbo frames": {
		links:   []string{"eth0"},
		outside: `ip link set eth0 mtu 9000; ip addr add 10.1.1.1/32 dev eth0; ip route add 10.1.1.2/32 dev eth0; ip addr add 203.0.113.1/32 dev lo`,
		inside: `ip link set eth0 mtu 9000; ip addr add 10.1.1.2/32 dev eth0
			ip route add 10.1.1.1/32 dev eth0 scope link; ip route add default via 10.1.1.1`,
		serve: []string{"203.0.113.1:80"},
		steps: "interfaces then udp 203.0.113.1:80 8900 then get http://203.0.113.1/",
		want:  []string{"mtu 9000", "10.1.1.2/32", "8900 bytes came back, the same: true\nyou are 10.1.1.2\n"},
	},
	// The gateway is nobody's address: the host answers for it (proxy_arp), if it
	// is a router; a new namespace is one where its host is.
	"gateway outside of every network": {
		links: []string{"eth0"},
		outside: `ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up
			ip route add default dev up0; ip route add 10.1.1.2/32 dev eth0
			echo 1 >/proc/sys/net/ipv4/conf/all/forwarding; echo 1 >/proc/sys/net/ipv4/conf/eth0/proxy_arp
			echo 0 >/proc/sys/net/ipv4/neigh/eth0/proxy_delay; ip addr add 203.0.113.1/32 dev lo`,
		inside: `ip addr add 10.1.1.2/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1`,
		serve:  []string{"203.0.113.1:80"},
		steps:  "get http://203.0.113.1/ then udp 203.0.113.1:80 1000",
		want:   []string{"you are 10.1.1.2\n1000 bytes came back, the same: true\n"},
	},
	"everything on the link": {
		links:   []string{"eth0"},
		outside: `ip addr add 10.0.0.1/24 dev eth0; ip addr add 203.0.113.1/32 dev lo`,
		inside:  `ip addr add 10.0.0.2/24 dev eth0; ip route add default dev eth0`,
		serve:   []string{"203.0.113.1:80"},
		steps:   "get http://203.0.113.1/",
		want:    []string{"you are 10.0.0.2\n"},
	},
	"two interfaces, one default route": {
		links: []string{"eth1", "eth0"},
		outside: `ip addr add 10.0.1.1/24 dev eth1; ip addr add 10.0.0.1/24 dev eth0; ip addr add 203.0.113.1/32 dev lo
			ip link set eth1 mtu 1400`,
		inside: `ip link set eth1 mtu 1400; ip addr add 10.0.1.2/24 dev eth1; ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1`,
		serve:  []string{"10.0.1.1:80", "10.0.0.1:80", "203.0.113.1:80"},
		steps:  "interfaces then get http://10.0.1.1/ http://10.0.0.1/ http://203.0.113.1/",
		want:   []string{"mtu 1400", "mtu 1500", "you are 10.0.1.2\nyou are 10.0.0.2\nyou are 10.0.0.2\n"},
	},
	"macvlan": {
		outside: `ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up
			ip addr add 10.9.0.1/24 dev up1; ip link add link up0 name mv0 netns $inside type macvlan mode bridge`,
		inside: `ip link set mv0 up; ip addr add 10.9.0.2/24 dev mv0`,
		serve:  []string{"10.9.0.1:80"},
		steps:  "get http://10.9.0.1/",
		want:   []string{"you are 10.9.0.2\n"},
	},
}

func TestNetworkSettings(t *testing.T) {
	onGuests(t, func(t *testing.T, h *host) {
		h.load(t, probe)
		for name, s := range networkSettings {
			t.Run(name, func(t *testing.T) {
				inside, outside := pod(t, s.links...)
				outside.sh(t, "inside="+string(inside)+"\n"+s.outside)
				inside.sh(t, s.inside)
				outside.serve(t, s.serve...)
				got := h.run(t, container{image: probe, flags: join(inside)}, probing(s.steps)...)
				if got.Code != 0 {
					t.Errorf("%+v", got)
				}
				contains(t, got.Stdout, s.want...)
				if pieces := reassembled(t, outside); pieces != "0" {
					t.Errorf("the MTU is not what it says: %s fragments", pieces)
				}
			})
		}
	})
}

// reassembled is how many fragments of IPv4 a namespace has put together.
func reassembled(t *testing.T, n netns) string {
	t.Helper()
	lines := strings.Split(n.sh(t, "grep Ip: /proc/net/snmp"), "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	for i, name := range names {
		if name == "ReasmReqds" {
			return values[i]
		}
	}
	t.Fatalf("no ReasmReqds in %q", lines)
	return ""
}

// TestNetworkNone: with nothing in its namespace a program has its loopback.
func TestNetworkNone(t *testing.T) {
	onGuests(t, func(t *testing.T, h *host) {
		h.load(t, probe)
		got := h.run(t, container{image: probe}, probing("interfaces then loopback")...)
		if got.Code != 0 || got.Stdout != "404 page not found\n" {
			t.Errorf("%+v", got)
		}
	})
}

// TestNetworkFiles: what clients prepare for a container's /etc, which they give
// as bind mounts of files, is what its programs go by.
func TestNetworkFiles(t *testing.T) {
	onGuests(t, func(t *testing.T, h *host) {
		h.load(t, probe)
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		outside.serve(t, "10.0.0.1:80")
		flags := append(join(inside), "--hostname", "webhost")
		dir := t.TempDir()
		for name, text := range map[string]string{
			"hosts": "127.0.0.1 localhost\n10.0.0.1 neighbour\n", "resolv.conf": "nameserver 192.0.2.53\n", "hostname": "webhost\n",
		} {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			flags = append(flags, "--mount", "type=bind,src="+path+",dst=/etc/"+name+",options=rbind:ro")
		}
		want := "nameserver 192.0.2.53\nwebhost\nwebhost\nyou are 10.0.0.2\n"
		got := h.run(t, container{image: probe, flags: flags}, probing("cat /etc/resolv.conf /etc/hostname then hostname then get http://neighbour/")...)
		if got.Code != 0 || got.Stdout != want {
			t.Errorf("got %+v, want %q", got, want)
		}
		got = h.run(t, container{image: python, flags: flags}, "python3", "-c",
			"import socket, urllib.request; print(socket.gethostname()); print(urllib.request.urlopen('http://neighbour/', timeout=20).read().decode(), end='')")
		if want := "webhost\nyou are 10.0.0.2\n"; got.Code != 0 || got.Stdout != want {
			t.Errorf("Python: got %+v, want %q", got, want)
		}
	})
}

// TestNetworkNanosRefuses: what its kernel cannot be told is refused before
// anything boots, with the reason and the guest that can.
func TestNetworkNanosRefuses(t *testing.T) {
	onGuests(t, func(t *testing.T, h *host) {
		h.load(t, probe)
		for name, test := range map[string]struct{ inside, want string }{
			"two addresses":  {`ip addr add 10.0.0.2/24 dev eth0; ip addr add 10.0.0.3/24 dev eth0`, "has 2 IPv4 and 0 IPv6 addresses"},
			"two of IPv6":    {`ip addr add fd00::2/64 dev eth0 nodad; ip addr add fd00::3/64 dev eth0 nodad`, "has 0 IPv4 and 2 IPv6 addresses"},
			"static route":   {`ip addr add 10.0.0.2/24 dev eth0; ip route add 10.9.0.0/16 via 10.0.0.9`, "a route to 10.9.0.0/16 by way of 10.0.0.9"},
			"second network": {`ip addr add 10.0.0.2/24 dev eth0; ip route add 10.9.0.0/16 dev eth0`, "a route to 10.9.0.0/16 on the link"},
			"neighbour":      {`ip addr add 10.0.0.2/24 dev eth0; ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 nud permanent dev eth0`, "neighbour 10.0.0.1"},
			"IPv6 route":     {`ip addr add fd00::2/64 dev eth0 nodad; ip -6 route add fd09::/64 via fd00::1`, "a route to fd09::/64 by way of fd00::1"},
			"large network":  {`ip addr add fd00::2/48 dev eth0 nodad`, "network fd00::/48 on the link"},
		} {
			inside, _ := pod(t, "eth0")
			inside.sh(t, test.inside)
			got := h.run(t, container{image: probe, flags: join(inside)}, probing("interfaces")...)
			if strings.HasSuffix(t.Name(), "/linux") {
				if got.Code != 0 {
					t.Errorf("%s: %+v", name, got)
				}
				continue
			}
			if got.Code == 0 || !strings.Contains(got.Stderr, test.want) || !strings.Contains(got.Stderr, "use guest linux") {
				t.Errorf("%s: %+v, want an error with %q", name, got, test.want)
			}
			h.ctr(t, "containers", "delete", "c1")
			if links := inside.sh(t, "ip -o link"); strings.Contains(links, "uni") {
				t.Errorf("%s: a tap is left: %s", name, links)
			}
		}
	})
}

// TestNetworkOfNoUse: an interface in a state that nothing can be taken from is
// refused, whatever boots.
func TestNetworkOfNoUse(t *testing.T) {
	onGuests(t, func(t *testing.T, h *host) {
		h.load(t, probe)
		for name, test := range map[string]struct{ outside, inside, want string }{
			"interface down": {"", `ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 down`, "eth0 has addresses but is down"},
			"address of another": {`ip addr add fd00::2/64 dev eth0 nodad`, `ip addr add fd00::2/64 dev eth0`,
				"another host on the link has the address fd00::2"},
		} {
			inside, outside := pod(t, "eth0")
			outside.sh(t, test.outside)
			inside.sh(t, test.inside)
			got := h.run(t, container{image: probe, flags: join(inside)}, probing("interfaces")...)
			if got.Code == 0 || !strings.Contains(got.Stderr, test.want) {
				t.Errorf("%s: %+v, want an error with %q", name, got, test.want)
			}
			h.ctr(t, "containers", "delete", "c1")
		}
	})
}

// TestNetworkChanges: what happens to the namespace while a container runs does
// not matter to it, nor to its removal: the interface gets another name, the
// shim is killed, the namespace vanishes.
func TestNetworkChanges(t *testing.T) {
	onGuests(t, func(t *testing.T, h *host) {
		h.load(t, probe)
		inside, outside := pod(t, "eth0")
		outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0`)
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0`)
		serves := func() bool {
			out, _ := exec.Command("nsenter", "--net="+string(outside), "timeout", "3", "busybox", "wget", "-q", "-O", "-", "http://10.0.0.2:80/").Output()
			return string(out) == "you are 10.0.0.1\n"
		}
		up := func() {
			h.detach(t, container{image: probe, flags: join(inside)}, probing("serve :80")...)
			eventually(t, "the container serves", serves)
		}

		up()
		inside.sh(t, `ip link set eth0 down; ip link set eth0 name other; ip link set other up`)
		eventually(t, "the container serves by an interface of another name", serves)
		h.remove(t, "c1")
		if links := inside.sh(t, "ip -o link; tc filter show dev other ingress"); strings.Contains(links, "uni") {
			t.Errorf("left in the namespace: %s", links)
		}

		up()
		kill(t, h.find(t, shim))
		eventually(t, "the tap is gone", func() bool { return !strings.Contains(inside.sh(t, "ip link"), "uni") })
		// The link to the tap goes after the tap: a frame may be lost in between.
		eventually(t, "the namespace answers by itself again", func() bool {
			return outside.sh(t, `busybox ping -c 1 -W 1 10.0.0.2 >/dev/null && echo yes || echo no`) == "yes\n"
		})
		h.RemoveAll(t.Context())

		up()
		inside.sh(t, `ip link del other`)
		if err := syscall.Unmount(string(inside), syscall.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		h.remove(t, "c1")
	})
}
