package peer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// disabled are plugins no test needs and whatever writes outside of the peer's
// directory.
var disabled = []string{
	"io.containerd.internal.v1.opt",
	"io.containerd.nri.v1.nri",
	"io.containerd.snapshotter.v1.aufs",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.btrfs",
	"io.containerd.snapshotter.v1.devmapper",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.zfs",
	"io.containerd.tracing.processor.v1.otlp",
	"io.containerd.internal.v1.tracing",
}

// service are the plugins of the container runtime interface.
var service = []string{
	"io.containerd.grpc.v1.cri",
	"io.containerd.cri.v1.images",
	"io.containerd.cri.v1.runtime",
	"io.containerd.podsandbox.controller.v1.cri",
}

// CRI is what containerd's service for Kubernetes is told.
type CRI struct {
	// Plugins is the directory of CNI's plugins, Network what is to be in its
	// configuration: a list, as a file *.conflist holds it.
	Plugins, Network string
	// Pause is the image of sandboxes.
	Pause string
	// Registry answers for all registries, such as "http://127.0.0.1:5017"; empty
	// for none.
	Registry string
	// Deploy is the directory that has the handlers for a user's containerd.
	Deploy string
	// SandboxAPI has the shim make pods, as a comment in the handler's file says how.
	SandboxAPI bool
}

// write writes the peer's configuration below its directory.
func (o Options) write() error {
	text := configuration(o)
	if c := o.CRI; c != nil {
		more, err := c.write(o)
		if err != nil {
			return err
		}
		text = append(text, more...)
	}
	return os.WriteFile(filepath.Join(o.Dir, "config.toml"), text, 0o644)
}

// configuration is what every peer's config.toml begins with. Format version 2 is
// read by every version from 1.3 on; 2.x alone reads 3.
func configuration(o Options) []byte {
	var b bytes.Buffer
	without, version := disabled, 2
	if o.CRI == nil {
		without = append(without[:len(without):len(without)], service...)
	} else if !o.old() {
		version = 3
		fmt.Fprintf(&b, "imports = [%q]\n", o.Dir+"/conf.d/*.toml")
	}
	quoted := make([]string, len(without))
	for i, d := range without {
		quoted[i] = fmt.Sprintf("%q", d)
	}
	fmt.Fprintf(&b, "version = %d\nroot = %q\nstate = %q\n", version, o.Dir+"/root", o.Dir+"/state")
	fmt.Fprintf(&b, "disabled_plugins = [\n  %s,\n]\n", strings.Join(quoted, ",\n  "))
	fmt.Fprintf(&b, "[grpc]\n  address = %q\n", o.Dir+"/ctd.sock")
	fmt.Fprintf(&b, "[debug]\n  level = \"debug\"\n")
	return b.Bytes()
}

// old says that the version is before 2, in which the service was one plugin.
func (o Options) old() bool { return strings.HasPrefix(o.Version, "1.") }

// write writes what the service reads below the peer's directory and returns its
// part of config.toml.
func (c *CRI) write(o Options) ([]byte, error) {
	network, hosts := filepath.Join(o.Dir, "net.d"), filepath.Join(o.Dir, "certs.d")
	files := map[string]string{
		network + "/10-pods.conflist":  c.Network,
		hosts + "/_default/hosts.toml": fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", c.Registry, c.Registry),
	}
	name := "uni-v3.toml"
	if o.old() {
		name = "uni-v2.toml"
	}
	handler, err := os.ReadFile(filepath.Join(c.Deploy, "containerd", name))
	if err != nil {
		return nil, err
	}
	if c.SandboxAPI {
		const line = "sandboxer = \"shim\"\n"
		if !bytes.Contains(handler, []byte("# "+line)) {
			return nil, fmt.Errorf("%s does not say how pods are made by the shim", name)
		}
		handler = bytes.Replace(handler, []byte("# "+line), []byte(line), 1)
	}
	var b bytes.Buffer
	if o.old() {
		fmt.Fprintf(&b, oldService, c.Pause, network, c.Plugins, hosts)
		b.Write(handler)
	} else {
		fmt.Fprintf(&b, newService, c.Pause, hosts, network, c.Plugins)
		files[filepath.Join(o.Dir, "conf.d", name)] = string(handler)
	}
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// oldService and newService say the same to 1.x and to 2.x: the pods' network
// namespaces are kept below the state directory, and nothing is asked of the host
// that a test environment may lack (the privilege to lower oom_score_adj, huge
// pages, AppArmor).
const (
	oldService = `[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = %q
  bin_dir = %q
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = %q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`
	newService = `[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %q
[plugins."io.containerd.cri.v1.images".registry]
  config_path = %q
[plugins."io.containerd.cri.v1.runtime"]
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".cni]
  conf_dir = %q
  bin_dirs = [%q]
`
)
