package linux

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// sandbox makes the wire's form of what is the machine's, but for its clock.
func sandbox(app unikernel.App, shareTag string) (wire.Sandbox, error) {
	s := app.Spec
	b := wire.Sandbox{Hostname: s.Hostname, Domainname: s.Domainname, ShareTag: shareTag}
	for _, name := range sortedKeys(s.Linux.Sysctl) {
		if strings.Contains(name, "..") || strings.HasPrefix(name, "/") {
			return b, fmt.Errorf("%w: sysctl %q", unikernel.ErrInvalid, name)
		}
		b.Sysctls = append(b.Sysctls, [2]string{name, s.Linux.Sysctl[name]})
	}
	var err error
	b.Network, err = network(app.Network)
	return b, err
}

// container makes the wire's form of what a container's processes share, but for its
// id and its limits.
func container(app unikernel.App, disks []unikernel.DiskRequest) (wire.Container, error) {
	c := describe(app.Spec)
	for _, d := range disks {
		switch d.Kind {
		case unikernel.DiskRoot:
			c.Root = d.Serial
		case unikernel.DiskWritable:
			c.Upper = d.Serial
		case unikernel.DiskDevice:
			w := device(d.Device)
			w.Major, w.Minor, w.Serial, w.ReadOnly = 0, 0, d.Serial, d.ReadOnly // the host's mean nothing there
			c.Devices = append(c.Devices, w)
		}
	}
	if c.Root == "" {
		return c, fmt.Errorf("%w: the container has no disk with a root", unikernel.ErrInvalid)
	}
	return c, bindSources(&c, app.Volumes, app.Shares)
}

// describe makes what is in the specification. The sources of bind mounts are the
// host's.
func describe(s *specs.Spec) wire.Container {
	c := wire.Container{
		ReadonlyRoot: s.Root != nil && s.Root.Readonly,
		MaskedPaths:  s.Linux.MaskedPaths, ReadonlyPaths: s.Linux.ReadonlyPaths,
	}
	for _, m := range s.Mounts {
		w := wire.Mount{Destination: m.Destination, Type: m.Type, Source: m.Source, Options: m.Options}
		if isBind(m) {
			w.Type = "bind"
		}
		c.Mounts = append(c.Mounts, w)
	}
	c.Devices = devices(s.Linux)
	return c
}

// limits are those of the container's own cgroup.
func limits(s *specs.Spec) wire.Limits {
	var l wire.Limits
	r := s.Linux.Resources
	if r == nil {
		return l
	}
	if r.Pids != nil {
		l.Pids = positive(r.Pids.Limit)
	}
	if r.Memory != nil {
		l.Memory = positive(r.Memory.Limit)
	}
	l.CPU = cpu(r.CPU)
	return l
}

func positive(n *int64) *uint64 {
	if n == nil || *n <= 0 {
		return nil
	}
	u := uint64(*n)
	return &u
}

// cpu are limits of CPU in the terms of cgroup 2.
func cpu(c *specs.LinuxCPU) *wire.CPU {
	if c == nil {
		return nil
	}
	w := &wire.CPU{}
	if quota := positive(c.Quota); quota != nil {
		w.Quota = *quota
	}
	if c.Period != nil {
		w.Period = *c.Period
	}
	if c.Shares != nil {
		w.Weight = weight(*c.Shares)
	}
	return w
}

// weight makes cpu.weight of cgroup 2, 1 to 10000, of cpu.shares of cgroup 1, 2 to
// 262144: on a straight line, as the runtime specification's users expect. 0 is none.
func weight(shares uint64) uint64 {
	if shares == 0 {
		return 0
	}
	return 1 + (min(max(shares, 2), 262144)-2)*9999/262142
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// bindSources names the source of each bind mount in a volume or the shared
// directory. Shares come in the order of the specification's mounts.
func bindSources(c *wire.Container, volumes []unikernel.VolumeMount, shares []unikernel.SharedMount) error {
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if m.Type != "bind" || inVolume(m, volumes) {
			continue
		}
		at := slices.IndexFunc(shares, func(s unikernel.SharedMount) bool {
			return s.Mount.Destination == m.Destination && s.Mount.Source == m.Source
		})
		if at < 0 {
			return fmt.Errorf("%w: bind mount of %s at %s is not shared with the machine", unikernel.ErrInvalid, m.Source, m.Destination)
		}
		m.Source = shares[at].Name
		m.Options = slices.Clone(m.Options)
		for _, path := range shares[at].Below {
			m.Options = append(m.Options, wire.OptionBelow+path)
		}
		shares = shares[at+1:]
	}
	return nil
}

// network makes the wire's form of what the guest takes over.
func network(n unikernel.Network) (wire.Network, error) {
	var out wire.Network
	for _, i := range n.Interfaces {
		mac, err := net.ParseMAC(i.MAC)
		if err != nil || len(mac) != 6 {
			return out, fmt.Errorf("%w: interface %s: %q is not an Ethernet address", unikernel.ErrInvalid, i.Name, i.MAC)
		}
		w := wire.Interface{Name: i.Name, MAC: string(mac), MTU: uint32(i.MTU)}
		for _, a := range i.Addresses {
			if slices.Contains(i.Unrouted, a) {
				w.Unrouted = append(w.Unrouted, prefix(a))
			} else {
				w.Addresses = append(w.Addresses, prefix(a))
			}
		}
		out.Interfaces = append(out.Interfaces, w)
	}
	for _, r := range n.Routes {
		out.Routes = append(out.Routes, wire.Route{
			Interface: r.Interface, Destination: prefix(r.Destination),
			Gateway: string(r.Gateway.AsSlice()), Source: string(r.Source.AsSlice()),
			Metric: uint32(r.Metric), MTU: uint32(r.MTU), OnLink: r.OnLink,
		})
	}
	for _, v := range n.Neighbors {
		mac, err := net.ParseMAC(v.MAC)
		if err != nil {
			return out, fmt.Errorf("%w: neighbour %s: %q is not an Ethernet address", unikernel.ErrInvalid, v.Address, v.MAC)
		}
		out.Neighbors = append(out.Neighbors, wire.Neighbor{Interface: v.Interface, IP: string(v.Address.AsSlice()), MAC: string(mac)})
	}
	return out, nil
}

func prefix(p netip.Prefix) wire.Prefix {
	return wire.Prefix{IP: string(p.Addr().AsSlice()), Bits: uint32(p.Bits())}
}

// process makes the wire's form of a process. One that names no capabilities
// gets fallback, the container's.
func process(p *specs.Process, fallback *specs.LinuxCapabilities, io unikernel.Stdio) (wire.Process, error) {
	if p == nil || len(p.Args) == 0 {
		return wire.Process{}, fmt.Errorf("%w: process has no arguments", unikernel.ErrInvalid)
	}
	if p.Cwd == "" || p.Cwd[0] != '/' {
		return wire.Process{}, fmt.Errorf("%w: cwd %q is not an absolute path", unikernel.ErrInvalid, p.Cwd)
	}
	if err := unikernel.CheckProcess(p); err != nil {
		return wire.Process{}, err
	}
	w := wire.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids, Umask: 0o022,
		NoNewPrivileges: p.NoNewPrivileges, Terminal: p.Terminal,
		Stdin: io.Stdin != nil, Stdout: io.Stdout != nil, Stderr: io.Stderr != nil,
	}
	for _, s := range slices.Concat(p.Args, p.Env, []string{p.Cwd}) {
		if strings.ContainsRune(s, 0) {
			return w, fmt.Errorf("%w: %q holds a zero byte", unikernel.ErrInvalid, s)
		}
	}
	if p.User.Umask != nil {
		w.Umask = *p.User.Umask
	}
	if p.OOMScoreAdj != nil {
		w.SetOOMScoreAdj, w.OOMScoreAdj = true, int64(*p.OOMScoreAdj)
	}
	if b := p.ConsoleSize; b != nil {
		w.Width, w.Height = uint16(min(b.Width, 1<<16-1)), uint16(min(b.Height, 1<<16-1))
	}
	if p.Capabilities != nil {
		fallback = p.Capabilities
	}
	if fallback != nil {
		w.Caps = caps(fallback)
	}
	var err error
	w.Rlimits, err = rlimits(p.Rlimits)
	return w, err
}

func caps(c *specs.LinuxCapabilities) wire.Caps {
	return wire.Caps{
		Bounding: capSet(c.Bounding), Effective: capSet(c.Effective), Permitted: capSet(c.Permitted),
		Inheritable: capSet(c.Inheritable), Ambient: capSet(c.Ambient),
	}
}

// capSet makes a bit set of names. A name this version does not know is left
// out, as runc does: fewer capabilities are never wrong.
func capSet(names []string) uint64 {
	var set uint64
	for _, name := range names {
		if n := slices.Index(capabilities, strings.TrimPrefix(strings.ToUpper(name), "CAP_")); n >= 0 {
			set |= 1 << n
		}
	}
	return set
}

// capabilities are the names of Linux' capabilities by number, from
// include/uapi/linux/capability.h.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// resources are the names of resource limits by number, from
// include/uapi/asm-generic/resource.h.
var resources = []string{
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
	"SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
}

func rlimits(list []specs.POSIXRlimit) ([]wire.Rlimit, error) {
	var out []wire.Rlimit
	for _, r := range list {
		n := slices.Index(resources, strings.TrimPrefix(r.Type, "RLIMIT_"))
		if n < 0 || !strings.HasPrefix(r.Type, "RLIMIT_") {
			return nil, fmt.Errorf("%w: resource limit %q", unikernel.ErrInvalid, r.Type)
		}
		if r.Soft > r.Hard {
			return nil, fmt.Errorf("%w: %s: soft limit %d is above the hard limit %d", unikernel.ErrInvalid, r.Type, r.Soft, r.Hard)
		}
		out = append(out, wire.Rlimit{Resource: uint32(n), Soft: r.Soft, Hard: r.Hard})
	}
	return out, nil
}
