package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"containerd-shim-uni/integration/peer"
)

// site is a containerd in a network namespace of its own, so that the bridges
// and rules that CNI plugins make for its containers are no others'.
type site struct {
	*host
	netns netns
	tools string // nerdctl and the CNI plugins, from integration/peers.sh
}

// sites counts them, for short names of directories.
var sites atomic.Int32

// newSite starts the newest containerd for one test; wrap as in peer.Options.
func newSite(t *testing.T, wrap ...string) *site {
	t.Helper()
	uniOnly(t)
	tools, err := filepath.Glob(filepath.Join(world.cache, "peers", "tools-*"))
	if err != nil || len(tools) != 1 {
		t.Fatalf("nerdctl and the CNI plugins are missing (%v): make peers", tools)
	}
	s := &site{netns: newNetns(t, "site"), tools: tools[0]}
	s.host, err = newHost(t.Context(), newest(), fmt.Sprintf("n%d", sites.Add(1)), append([]string{"nsenter", "--net=" + string(s.netns)}, wrap...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Error(err)
		}
	})
	s.load(t, busybox)
	s.watch(t)
	return s
}

// inside makes a command that runs where the site's containerd does.
func (s *site) inside(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + string(s.netns), program}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+s.tools+":"+os.Getenv("PATH"))
	return cmd
}

// nerdctl is a call of nerdctl to its end.
func (s *site) nerdctl(t *testing.T, args ...string) peer.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := s.inside(ctx, filepath.Join(s.tools, "nerdctl"), append([]string{
		"--address", s.Address(), "--namespace", s.Namespace,
		"--cni-path", s.tools, "--cni-netconfpath", filepath.Join(s.Dir, "cni"),
		"--data-root", filepath.Join(s.Dir, "nerdctl"), "--cgroup-manager", "cgroupfs",
	}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	code := peer.Code(cmd, cmd.Run())
	return peer.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code}
}

// do is a call of nerdctl that must succeed; it returns stdout.
func (s *site) do(t *testing.T, args ...string) string {
	t.Helper()
	r := s.nerdctl(t, args...)
	if r.Code != 0 {
		t.Fatalf("nerdctl %s: %+v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// up is "nerdctl run -d".
func (s *site) up(t *testing.T, flags []string, command ...string) {
	t.Helper()
	args := append([]string{"run", "-d", "--runtime", uniRuntime}, flags...)
	s.do(t, append(append(args, busybox), command...)...)
}

// once is "nerdctl run --rm".
func (s *site) once(t *testing.T, flags []string, script string) peer.Result {
	t.Helper()
	args := append([]string{"run", "--rm", "--runtime", uniRuntime}, flags...)
	return s.nerdctl(t, append(args, busybox, "sh", "-c", script)...)
}

// TestNerdctlCopyIsNotTheHost: "nerdctl cp" looks for a running container's
// files by the number of its process, and must not find the host's there.
func TestNerdctlCopyIsNotTheHost(t *testing.T) {
	s := newSite(t)
	s.up(t, []string{"--name", "box"}, "sleep", "1000")
	defer s.do(t, "rm", "-f", "box")
	dir := t.TempDir() // on the host; the container has no such directory
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("the host's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, in := filepath.Join(dir, "out"), filepath.Join(dir, "in")
	if got := s.nerdctl(t, "cp", "box:"+secret, out); got.Code == 0 || exists(out) {
		t.Errorf("a file of the host was copied: %+v", got)
	}
	if got := s.nerdctl(t, "cp", secret, "box:"+in); got.Code == 0 || exists(in) {
		t.Errorf("a file was written to the host: %+v", got)
	}
	pid := strings.TrimSpace(s.do(t, "inspect", "-f", "{{.State.Pid}}", "box"))
	for _, kind := range []string{"mnt", "pid", "ipc", "uts", "net"} {
		ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.Pid(), kind))
		theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%s/ns/%s", pid, kind))
		if err := errors.Join(err, err2); err != nil || ours == theirs {
			t.Errorf("namespace %s is containerd's: %s, %v", kind, ours, err)
		}
	}
	cgroup, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil || !strings.Contains(string(cgroup), s.Namespace) {
		t.Errorf("its cgroup is %s, %v", cgroup, err)
	}
}

func TestNerdctl(t *testing.T) {
	s := newSite(t)
	s.up(t, []string{"--name", "web", "--hostname", "webhost", "-p", "127.0.0.1:8080:80"}, "sh", "-c", `
		trap 'echo got term; kill $!; exit 3' TERM
		mkdir /www; echo hello from the machine >/www/index.html
		httpd -f -p 80 -h /www & wait`)

	var page []byte
	eventually(t, "the published port answers", func() bool {
		page, _ = s.inside(t.Context(), "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/").Output()
		return len(page) > 0
	})
	if string(page) != "hello from the machine\n" {
		t.Errorf("page %q", page)
	}
	address := strings.TrimSpace(s.do(t, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"))
	if got := s.do(t, "exec", "web", "sh", "-c", "hostname; ip -4 -o addr show eth0"); !strings.HasPrefix(got, "webhost\n") || address == "" || !strings.Contains(got, address+"/") {
		t.Errorf("inspect says %q, the machine %q", address, got)
	}
	contains(t, s.do(t, "ps"), "web", "127.0.0.1:8080->80/tcp")
	contains(t, s.do(t, "stats", "--no-stream", "web"), "MiB")

	s.do(t, "stop", "web")
	contains(t, s.do(t, "logs", "web"), "got term")
	if got := s.do(t, "inspect", "-f", "{{.State.ExitCode}}", "web"); got != "3\n" {
		t.Errorf("exit code %q after a handled SIGTERM, want 3", got)
	}
	s.do(t, "start", "web")
	if got := s.do(t, "exec", "web", "cat", "/proc/1/comm"); got != "sh\n" {
		t.Errorf("after start, process 1 is %q", got)
	}
	s.do(t, "rm", "-f", "web")
	if rules := s.netns.sh(t, "iptables-save -t nat"); strings.Contains(rules, "8080") {
		t.Errorf("rules of the published port are left:\n%s", rules)
	}
}

func TestNerdctlFilesOfTheClient(t *testing.T) {
	s := newSite(t)
	got := s.once(t, []string{"--hostname", "me", "--dns", "192.0.2.53", "--dns-search", "example.org", "--add-host", "other:192.0.2.7"},
		"hostname; cat /etc/hostname /etc/resolv.conf /etc/hosts")
	contains(t, got.Stdout, "me\nme\n", "nameserver 192.0.2.53", "search example.org", "192.0.2.7")
	got = s.once(t, []string{"--network", "none"}, "ip -o link | wc -l")
	if got.Stdout != "1\n" {
		t.Errorf("--network none: %+v", got)
	}
	got = s.once(t, []string{"--network", "host"}, "true")
	if got.Code == 0 || !strings.Contains(got.Stderr, "host's network") {
		t.Errorf("--network host: %+v", got)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got = s.once(t, []string{"-v", dir + ":/data"}, "cat /data/in; echo from the machine >/data/out")
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	if got.Stdout != "from the host\n" || err != nil || string(out) != "from the machine\n" {
		t.Errorf("volume: %+v, %q, %v", got, out, err)
	}
}

// TestNerdctlNetworks: containers find each other by address and by name on
// networks of the user's, with IPv6, and reach what is outside by masquerade.
func TestNerdctlNetworks(t *testing.T) {
	s := newSite(t)
	outside := newNetns(t, "outside")
	s.netns.sh(t, fmt.Sprintf(`
		ip link add wan type veth peer name wan netns %s; ip link set wan up; ip addr add 203.0.113.1/24 dev wan
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding`, outside))
	outside.sh(t, `ip link set wan up; ip addr add 203.0.113.2/24 dev wan`)

	s.do(t, "network", "create", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "--ipv6", "one")
	s.do(t, "network", "create", "--subnet", "10.78.0.0/24", "two")
	defer s.do(t, "network", "rm", "one", "two")
	s.up(t, []string{"--name", "server", "--network", "one", "--network", "two"}, "sh", "-c",
		"mkdir /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www")
	defer s.do(t, "rm", "-f", "server")

	addresses := s.do(t, "exec", "server", "ip", "-o", "addr")
	contains(t, addresses, "eth0    inet 10.77.0.", "inet6 fd77::", "eth1    inet 10.78.0.")
	v6 := strings.Fields(addresses[strings.Index(addresses, "inet6 fd77::"):])[1]
	v6, _, _ = strings.Cut(v6, "/")
	got := s.once(t, []string{"--network", "one"}, `
		for i in 1 2 3 4 5; do wget -q -O - http://server/ && break; sleep 1; done
		ping -6 -c 1 -W 10 `+v6+` >/dev/null && echo over IPv6
		ping -c 1 -W 10 203.0.113.2 >/dev/null && echo outside`)
	if want := "served\nover IPv6\noutside\n"; got.Stdout != want {
		t.Errorf("got %+v, want %q", got, want)
	}
}
