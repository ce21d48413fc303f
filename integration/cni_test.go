package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"containerd-shim-uni/integration/peer"
)

// plugins are networks as CNI's plugins make them, in a site whose "wan" leads
// to 203.0.113.2, and what a container on each reaches.
var plugins = map[string]struct {
	conf, gets string
	want       []string
}{
	"bridge": {
		conf: `{"type": "bridge", "bridge": "br-test", "isGateway": true, "ipMasq": true, "mtu": 1400,
			"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}`,
		gets: "http://10.88.0.1/ http://203.0.113.2/",
		want: []string{"you are 10.88.0.", "you are 203.0.113.1\n"},
	},
	"ptp": {
		conf: `{"type": "ptp", "ipMasq": true, "mtu": 9000,
			"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.89.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}`,
		gets: "http://10.89.0.1/ http://203.0.113.2/",
		want: []string{"you are 10.89.0.", "you are 203.0.113.1\n"},
	},
	"macvlan": {
		conf: `{"type": "macvlan", "master": "wan", "mode": "bridge",
			"ipam": {"type": "static", "addresses": [{"address": "203.0.113.9/24"}]}}`,
		gets: "http://203.0.113.2/",
		want: []string{"you are 203.0.113.9\n"},
	},
}

// occupant is the process that stands for a container on the host.
const occupant = "uni-container"

// cniSite is a site in which "ctr run --cni" finds one network.
type cniSite struct {
	*site
	script string // shows ctr the site's plugins and configuration where it looks
}

// newCNISite gives a site the network that a plugin makes, and a neighbour
// outside that answers.
func newCNISite(t *testing.T, conf string, wrap ...string) *cniSite {
	t.Helper()
	s := &cniSite{site: newSite(t, wrap...)}
	s.load(t, probe)
	outside := newNetns(t, "outside")
	s.netns.sh(t, fmt.Sprintf(`ip link add wan type veth peer name wan netns %s; ip link set wan up; ip addr add 203.0.113.1/24 dev wan`, outside))
	outside.sh(t, `ip link set wan up; ip addr add 203.0.113.2/24 dev wan`)
	outside.serve(t, "203.0.113.2:80")
	s.netns.serve(t, ":80")
	dir := filepath.Join(s.Dir, "net.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf = strings.Replace(conf, `"type": "host-local"`, `"type": "host-local", "dataDir": "`+s.Dir+`/ipam"`, 1)
	list := `{"cniVersion": "1.0.0", "name": "test", "plugins": [` + conf + `]}`
	if err := os.WriteFile(filepath.Join(dir, "10-test.conflist"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	// ctr looks in two fixed places: they are put there for it alone.
	s.script = fmt.Sprintf(`
		mount -t tmpfs none /opt; mkdir -p /opt/cni/bin; mount --bind %s /opt/cni/bin
		mkdir -p %s/etc %s/work; mount -t overlay -o lowerdir=/etc,upperdir=%s/etc,workdir=%s/work none /etc
		mkdir -p /etc/cni/net.d; cp %s/* /etc/cni/net.d
		exec "$@"`, s.tools, s.Dir, s.Dir, s.Dir, s.Dir, dir)
	return s
}

// cni is "ctr run --cni" of the program probe to its end.
func (s *cniSite) cni(t *testing.T, id, steps string) peer.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := s.cniCommand(ctx, id, steps)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code := peer.Code(cmd, cmd.Run())
	return peer.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code}
}

func (s *cniSite) cniCommand(ctx context.Context, id, steps string) *exec.Cmd {
	ctr := s.Command(ctx, append([]string{"run", "--rm", "--cni", "--runtime", uniRuntime, probe, id}, probing(steps)...)...)
	args := append([]string{"-m", "sh", "-ec", s.script, "sh", ctr.Path}, ctr.Args[1:]...)
	return s.inside(ctx, "unshare", args...)
}

// TestCtrCNI: ctr fills the namespace after it has created the task, with each
// of the plugins.
func TestCtrCNI(t *testing.T) {
	uniOnly(t)
	for name, plugin := range plugins {
		t.Run(name, func(t *testing.T) {
			s := newCNISite(t, plugin.conf)
			for _, guest := range []string{"linux", "nanos"} {
				t.Run(guest, func(t *testing.T) {
					if guest == "nanos" {
						nanosOnly(t)
					}
					s.with(t, guestSettings(guest))
					got := s.cni(t, "c1", "get "+plugin.gets)
					if got.Code != 0 {
						t.Errorf("%+v", got)
					}
					contains(t, got.Stdout, plugin.want...)
				})
			}
		})
	}
}

// TestPointToPointNeighbours: on a network of the ptp plugin containers reach
// each other by way of the host alone, also over IPv6.
func TestPointToPointNeighbours(t *testing.T) {
	s := newCNISite(t, `{"type": "ptp", "ipam": {"type": "host-local",
		"ranges": [[{"subnet": "10.89.0.0/24"}], [{"subnet": "fd89::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}`)
	server := s.cniCommand(t.Context(), "server", "serve :80")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		kill(t, s.find(t, "qemu-system")) // "ctr tasks kill" wants the network's configuration too
		_ = server.Wait()                 // killed
	}()
	s.await(t, "server", "RUNNING")
	got := s.cni(t, "client", "get http://10.89.0.2/ http://[fd89::2]/")
	if want := "you are 10.89.0.3\nyou are fd89::3\n"; got.Code != 0 || got.Stdout != want {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// TestDaemonCNI: libvirtd runs machines in the host's network namespace, and
// what "ctr run --cni" then sets up is the container's all the same.
func TestDaemonCNI(t *testing.T) {
	uniOnly(t)
	s := newCNISite(t, plugins["bridge"].conf, ownLibvirt...)
	s.with(t, settings{"libvirt.uri": `"qemu:///system"`})
	s.daemon(t, "virtlogd", "virtlogd-sock")
	s.daemon(t, "libvirtd", "libvirt-sock")

	got := s.cni(t, "c1", "get "+plugins["bridge"].gets)
	if got.Code != 0 {
		t.Errorf("%+v", got)
	}
	contains(t, got.Stdout, plugins["bridge"].want...)
	// The bridge goes up with its first container.
	routes := func() string {
		return s.netns.sh(t, "ip route | sed 's/ linkdown//'; ip -o addr show dev eth0 2>&1 || true")
	}
	before := routes()
	server := s.cniCommand(t.Context(), "c2", "serve :80")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	s.await(t, "c2", "RUNNING")
	if after := routes(); after != before {
		t.Errorf("the host's routes and interfaces were\n%sand are\n%s", before, after)
	}
	found := s.find(t, occupant)
	if listed := s.ok(t, "tasks", "ps", "c2"); len(found) != 1 || !strings.Contains(listed, strconv.Itoa(found[0])) {
		t.Errorf("processes %v are not in %q", found, listed)
	}
	kill(t, found) // as an operator would who looked for the container's process
	<-ended
	s.noDomains(t)
}

// TestDaemonShimKilled: nothing of a killed shim is left where libvirtd runs
// the machines, its process in the container's namespace neither.
func TestDaemonShimKilled(t *testing.T) {
	h := daemonHost(t)
	h.daemon(t, "virtlogd", "virtlogd-sock")
	h.daemon(t, "libvirtd", "libvirt-sock")
	h.detach(t, container{}, "sleep", "1000")
	if found := h.find(t, occupant); len(found) != 1 {
		t.Fatalf("processes in the namespace: %v", found)
	}
	kill(t, h.find(t, shim))
	eventually(t, "the process in the namespace is gone", func() bool { return len(h.find(t, occupant)) == 0 })
	h.RemoveAll(t.Context())
	h.noDomains(t)
}

// TestNerdctlNanos: what nerdctl sets up is true of a guest that gets it at its
// boot: the published port, the files of /etc, its neighbours by name.
func TestNerdctlNanos(t *testing.T) {
	nanosOnly(t)
	s := newSite(t)
	s.load(t, probe)
	s.with(t, guestSettings("nanos"))
	s.do(t, "network", "create", "--subnet", "10.77.0.0/24", "one")
	defer s.do(t, "network", "rm", "one")
	s.do(t, "run", "-d", "--runtime", uniRuntime, "--name", "web", "--network", "one", "-p", "127.0.0.1:8080:80", probe, "serve", ":80")
	defer s.do(t, "rm", "-f", "web")
	eventually(t, "the published port answers", func() bool {
		page, _ := s.inside(t.Context(), "timeout", "3", "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/").Output()
		return strings.HasPrefix(string(page), "you are ")
	})
	address := strings.TrimSpace(s.do(t, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"))
	contains(t, address, "10.77.0.")
	contains(t, s.do(t, "ps"), "web", "127.0.0.1:8080->80/tcp")
	contains(t, s.do(t, "logs", "web"), "serving")
	got := s.nerdctl(t, "run", "--rm", "--runtime", uniRuntime, "--network", "one", "--hostname", "me", probe,
		"hostname", "then", "interfaces", "then", "get", "http://web/", "http://"+address+"/")
	if got.Code != 0 || !strings.HasPrefix(got.Stdout, "me\n") || strings.Count(got.Stdout, "you are 10.77.0.") != 2 {
		t.Errorf("a neighbour: %+v", got)
	}
	got = s.nerdctl(t, "run", "--rm", "--runtime", uniRuntime, "--network", "none", probe, "interfaces", "then", "loopback")
	if got.Code != 0 || got.Stdout != "404 page not found\n" {
		t.Errorf("--network none: %+v", got)
	}
	s.do(t, "stop", "web")
	if got := s.do(t, "inspect", "-f", "{{.State.ExitCode}}", "web"); got != "15\n" {
		t.Errorf("exit code %q after SIGTERM, want the signal's number", got)
	}
}
