package libvirt

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"containerd-shim-uni/unikernel"
)

// DefaultURI is libvirt's driver inside this process; no daemon is needed.
const DefaultURI = "qemu:///embed"

// SystemURI is the libvirtd (or virtqemud) of this host.
const SystemURI = "qemu:///system"

// rootMax bounds the path of an embedded driver's root in bytes: libvirt puts
// Unix sockets below it, the longest as
// "/lib/qemu/domain-4294967295-" + 20 bytes of the name + "/monitor.sock".
const rootMax = socketMax - 61

// target is where domains run, and where libvirt keeps their state.
type target struct {
	uri string
	// daemon says that libvirt is a process of its own, which can go away.
	daemon bool
	// root is the embedded driver's directory; empty with a daemon.
	root string
	// state holds <domain>.pid and <domain>.xml, logs <domain>.log, lib
	// domain-<id>-<start of the name>/.
	state, logs, lib string
}

// embedded says that libvirt's driver runs in this process.
func (t target) embedded() bool { return t.root != "" }

// parseTarget reads a URI; root is the embedded driver's directory when the
// URI does not name one.
func parseTarget(uri, root string) (target, error) {
	if uri == "" {
		uri = DefaultURI
	}
	u, err := url.Parse(uri)
	if err != nil {
		return target{}, fmt.Errorf("libvirt URI: %w: %w", unikernel.ErrInvalid, err)
	}
	switch {
	case uri == SystemURI:
		return target{uri: uri, daemon: true, state: "/run/libvirt/qemu",
			logs: "/var/log/libvirt/qemu", lib: "/var/lib/libvirt/qemu"}, nil
	case u.Scheme != "qemu" || u.Host != "" || u.Path != "/embed":
		return target{}, fmt.Errorf("libvirt URI %q: %w: known are %s and %s?root=DIRECTORY",
			uri, unikernel.ErrInvalid, SystemURI, DefaultURI)
	}
	if r := u.Query().Get("root"); r != "" {
		root = r
	}
	if !filepath.IsAbs(root) || filepath.Clean(root) == "/" || len(root) > rootMax {
		return target{}, fmt.Errorf("libvirt URI %q: %w: the root %q must be an absolute directory of at most %d bytes",
			uri, unikernel.ErrInvalid, root, rootMax)
	}
	if strings.Trim(root, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.-") != "" {
		return target{}, fmt.Errorf("libvirt URI %q: %w: the root %q may hold letters, digits, dots, dashes and underscores",
			uri, unikernel.ErrInvalid, root)
	}
	root = filepath.Clean(root)
	return target{
		uri:   DefaultURI + "?root=" + url.QueryEscape(root),
		root:  root,
		state: filepath.Join(root, "run/qemu"),
		logs:  filepath.Join(root, "log/qemu"),
		lib:   filepath.Join(root, "lib/qemu"),
	}, nil
}
