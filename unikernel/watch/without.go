package watch

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// usualCapabilities are those that containerd gives every container (its
// pkg/oci, defaultUnixCaps).
var usualCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// usualLimit is the resource limit that containerd gives every container.
var usualLimit = specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}

// usualSysctls are those that containerd's CRI plugin sets for every pod.
var usualSysctls = []string{"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"}

// Without lists what a specification asks for that the program does not get and
// may not notice. What clients ask for of their own accord is not among it.
func Without(s *specs.Spec) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	p := s.Process
	if u := p.User; u.UID != 0 || u.GID != 0 {
		add("user %d:%d", u.UID, u.GID)
	}
	if changed := capabilities(p.Capabilities); changed != "" {
		add("capabilities %s", changed)
	}
	for _, r := range p.Rlimits {
		if r != usualLimit {
			add("limit %s of %d", r.Type, r.Soft)
		}
	}
	if r := s.Linux.Resources; r != nil && r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		add("limit of %d threads", *r.Pids.Limit)
	}
	list = append(list, unikernel.UnlimitedResources(s.Linux.Resources)...)
	for _, name := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		if !slices.Contains(usualSysctls, name) {
			add("sysctl %s=%s", name, s.Linux.Sysctl[name])
		}
	}
	return list
}

// capabilities says how those of the bounding set differ from the usual:
// "+CAP_SYS_TIME -CAP_KILL".
func capabilities(c *specs.LinuxCapabilities) string {
	if c == nil {
		return ""
	}
	var changed []string
	for _, name := range c.Bounding {
		if !slices.Contains(usualCapabilities, name) {
			changed = append(changed, "+"+name)
		}
	}
	for _, name := range usualCapabilities {
		if !slices.Contains(c.Bounding, name) {
			changed = append(changed, "-"+name)
		}
	}
	return strings.Join(changed, " ")
}
