package k8s

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"containerd-shim-uni/integration/conformance"
	"containerd-shim-uni/integration/peer"
)

// Options say what a cluster is made of.
type Options struct {
	// Programs is the directory that integration/k8s.sh filled.
	Programs string
	// Plugins is the directory of CNI's plugins.
	Plugins string
	// Images are archives that the node has.
	Images []string
	// Pause is the name of the image of sandboxes.
	Pause string
	// Peer says which containerd runs and with what environment; its Dir is the
	// directory of the whole cluster.
	Peer peer.Options
	// Deploy is the checkout's directory of that name.
	Deploy string
}

// Cluster is a Kubernetes of one node.
type Cluster struct {
	Options
	Node     *peer.Peer
	parts    []*part
	cgroup   string
	manifest string // the directory of static pods
}

// part is a process of the cluster.
type part struct {
	name string
	args []string
	cmd  *exec.Cmd
	done <-chan struct{}
}

const (
	address = "192.0.2.10" // the node's
	server  = "https://" + address + ":6443"
	token   = "admin"
	// readyTimeout bounds the wait for the node: its first start, on a busy host.
	readyTimeout = 3 * time.Minute
	// endTimeout bounds the wait for a process that was told to end.
	endTimeout = 30 * time.Second
)

// Start starts everything and returns when the node is ready.
func Start(ctx context.Context, o Options) (c *Cluster, err error) {
	c = &Cluster{Options: o, cgroup: "uni-" + filepath.Base(o.Peer.Dir), manifest: filepath.Join(o.Peer.Dir, "static")}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := conformance.Loopback(); err != nil {
		return c, err
	}
	if err := c.prepare(); err != nil {
		return c, err
	}
	n := o.Peer
	n.CRI = &peer.CRI{Plugins: o.Plugins, Network: conformance.PodNetwork(n.Dir), Pause: o.Pause, Deploy: o.Deploy}
	n.Marks = append(slices.Clone(n.Marks), c.cgroup)
	if c.Node, err = peer.Start(ctx, n); err != nil {
		return c, err
	}
	for _, i := range o.Images {
		if r := c.Node.Ctr(ctx, nil, "images", "import", i); r.Code != 0 {
			return c, fmt.Errorf("import %s: %s", i, r.Stderr)
		}
	}
	for _, p := range c.control() {
		if err := c.run(p); err != nil {
			return c, err
		}
		if p.name == "kube-apiserver" {
			if err := c.until(ctx, "the API server is ready", "get", "--raw", "/readyz"); err != nil {
				return c, err
			}
		}
	}
	return c, c.until(ctx, "the node is ready", "wait", "--for=condition=Ready", "node/node", "--timeout=5s")
}

// file is a path below the cluster's directory.
func (c *Cluster) file(name string) string { return filepath.Join(c.Peer.Dir, name) }

// control are the parts in the order of their starts.
func (c *Cluster) control() []*part {
	config := "--kubeconfig=" + c.file("kubeconfig")
	return []*part{
		{name: "etcd", args: []string{"--data-dir=" + c.file("etcd"), "--unsafe-no-fsync"}},
		{name: "kube-apiserver", args: []string{
			"--etcd-servers=http://127.0.0.1:2379", "--bind-address=" + address, "--advertise-address=" + address,
			"--cert-dir=" + c.file("pki"), "--token-auth-file=" + c.file("tokens"), "--authorization-mode=AlwaysAllow",
			"--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=" + server,
			"--service-account-key-file=" + c.file("sa.key"), "--service-account-signing-key-file=" + c.file("sa.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--allow-privileged",
		}},
		{name: "kube-controller-manager", args: []string{
			config, "--service-account-private-key-file=" + c.file("sa.key"), "--root-ca-file=" + c.file("pki/apiserver.crt"),
			"--use-service-account-credentials=false", "--leader-elect=false", "--cert-dir=" + c.file("pki"),
		}},
		{name: "kube-scheduler", args: []string{config, "--leader-elect=false", "--cert-dir=" + c.file("pki")}},
		{name: "kubelet", args: []string{
			config, "--config=" + c.file("kubelet.yaml"), "--hostname-override=node", "--node-ip=" + address,
			"--root-dir=" + c.file("kubelet"), "--cert-dir=" + c.file("pki"),
		}},
		{name: "kube-proxy", args: []string{
			config, "--hostname-override=node", "--proxy-mode=iptables", "--cluster-cidr=10.99.0.0/24",
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		}},
	}
}

// prepare makes the link, the cgroup and the files that the parts need.
func (c *Cluster) prepare() error {
	for _, args := range [][]string{
		{"ip", "link", "add", "node0", "type", "veth", "peer", "name", "nowhere"}, {"ip", "link", "set", "nowhere", "up"}, {"ip", "addr", "add", address + "/24", "dev", "node0"},
		{"ip", "link", "set", "node0", "up"}, {"ip", "route", "add", "default", "dev", "node0"},
		// Pods on one bridge reach each other by a Service, too.
		{"sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"},
		{"openssl", "genrsa", "-out", c.file("sa.key"), "2048"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	for _, dir := range []string{c.manifest, c.file("log")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, root := range cgroupRoots() {
		if err := os.Mkdir(filepath.Join(root, c.cgroup), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for name, text := range map[string]string{
		"tokens":     token + ",admin,admin,system:masters\n",
		"kubeconfig": fmt.Sprintf(kubeconfig, server, token),
		"kubelet.yaml": fmt.Sprintf(kubeletConfig, c.file("ctd.sock"), c.manifest, "/"+c.cgroup, c.file("resolv.conf"),
			c.file("log/pods"), c.file("plugins")),
		"resolv.conf": "nameserver 192.0.2.53\n",
	} {
		if err := os.WriteFile(c.file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// cgroupRoots are the hierarchies of cgroups: one, or one a controller.
func cgroupRoots() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*") // the pattern is well formed
	return slices.DeleteFunc(roots, func(r string) bool {
		info, err := os.Lstat(r)
		return err != nil || !info.IsDir()
	})
}

// run starts a part; what it says goes to a file.
func (c *Cluster) run(p *part) (err error) {
	p.cmd = exec.Command(filepath.Join(c.Programs, p.name), p.args...)
	p.cmd.Env = append(os.Environ(), "PATH="+c.Programs+":"+os.Getenv("PATH"))
	if p.done, err = peer.Daemon(p.cmd, c.file("log/"+p.name)); err != nil {
		return err
	}
	if !slices.Contains(c.parts, p) {
		c.parts = append(c.parts, p)
	}
	return nil
}

// end ends a part and waits for it.
func (p *part) end(sig syscall.Signal) error {
	_ = p.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-p.done:
		return nil
	case <-time.After(endTimeout):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return fmt.Errorf("%s did not end", p.name)
}

// Restart ends a part, by its name, and starts it again.
func (c *Cluster) Restart(name string) error {
	i := slices.IndexFunc(c.parts, func(p *part) bool { return p.name == name })
	if i < 0 {
		return fmt.Errorf("there is no %s", name)
	}
	return errors.Join(c.parts[i].end(syscall.SIGTERM), c.run(c.parts[i]))
}

// Kubectl calls kubectl to its end with an input and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Programs, "kubectl"), append([]string{"--kubeconfig=" + c.file("kubeconfig")}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.Peer.Dir)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// until repeats a call of kubectl until it succeeds.
func (c *Cluster) until(ctx context.Context, what string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		_, err := c.Kubectl(ctx, "", args...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; logs are in %s", what, err, c.file("log"))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Stop removes every pod, ends all processes and removes the cgroup. The files stay
// for whoever made the directory.
func (c *Cluster) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var errs []error
	if c.Node != nil && len(c.parts) > 4 { // there is a kubelet to do it
		_, err := c.Kubectl(ctx, "", "delete", "pods", "--all", "--all-namespaces", "--grace-period=1", "--timeout=90s")
		errs = append(errs, err)
	}
	for _, p := range slices.Backward(c.parts) {
		errs = append(errs, p.end(syscall.SIGTERM))
	}
	if c.Node != nil {
		errs = append(errs, c.Node.Stop())
	}
	for _, root := range cgroupRoots() {
		errs = append(errs, removeTree(filepath.Join(root, c.cgroup)))
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and those below it; one that is not there is no error.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, os.Remove(dir))
}

const (
	kubeconfig = `apiVersion: v1
kind: Config
current-context: node
clusters: [{name: node, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: node, context: {cluster: node, user: admin}}]
`
	// kubeletConfig asks for nothing that a host in a container lacks: cgroups of
	// version 2, the kernel's settings, an address that leads out.
	kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: "unix://%s"
staticPodPath: %q
cgroupDriver: cgroupfs
cgroupRoot: %q
resolvConf: %q
podLogsDir: %q
volumePluginDir: %q
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
featureGates: {KubeletInUserNamespace: true}
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
evictionHard: {memory.available: 100Mi, nodefs.available: 0%%, imagefs.available: 0%%}
imageGCHighThresholdPercent: 100
syncFrequency: 5s
fileCheckFrequency: 2s
configMapAndSecretChangeDetectionStrategy: Watch
`
)
