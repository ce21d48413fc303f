package nanos

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Configure implements unikernel.Configurer.
func (g *Guest) Configure(app unikernel.App) (unikernel.BootConfig, error) {
	p := app.Spec.Process
	c := unikernel.BootConfig{Args: p.Args, Env: p.Env, Cwd: p.Cwd}
	if c.Cwd == "" {
		c.Cwd = "/"
	}
	for _, s := range append(append([]string(nil), p.Args...), p.Env...) {
		if strings.Contains(s, "\x00") {
			return c, fmt.Errorf("%w: %q holds a zero byte", unikernel.ErrInvalid, s)
		}
	}
	c.Options = append(c.Options, exitOptions...)
	if app.Spec.Root != nil && app.Spec.Root.Readonly {
		c.Options = append(c.Options, unikernel.Option{Name: "readonly_rootfs", Value: "t"})
	}
	for _, s := range app.Shares {
		c.Files = append(c.Files, unikernel.BootFile{Path: s.Mount.Destination, Source: s.Mount.Source})
	}
	if err := checkNetwork(app.Network); err != nil {
		return c, err
	}
	for i, n := range app.Network.Interfaces {
		c.Options = append(c.Options, network("en"+strconv.Itoa(i+1), n, app.Network.Routes)...)
	}
	return c, nil
}

// checkNetwork refuses what the kernel has no key for: the guest would be
// without it and nobody would know. An IPv6 default route is left out, since
// the kernel learns it from router advertisements.
func checkNetwork(n unikernel.Network) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: guest %s: %s; use guest linux", unikernel.ErrNotImplemented, Name, fmt.Sprintf(format, args...))
	}
	for _, nic := range n.Interfaces {
		var v4, v6 int
		for _, a := range nic.Addresses {
			switch {
			case a.Addr().Is4():
				v4++
			case !a.Addr().IsLinkLocalUnicast():
				v6++
			}
		}
		if v4 > 1 || v6 > 1 {
			return refuse("interface %s has %d IPv4 and %d IPv6 addresses, one of each is possible", nic.Name, v4, v6)
		}
	}
	for _, r := range n.Routes {
		switch {
		case r.Destination.Bits() > 0 && r.Gateway.IsValid():
			return refuse("a route to %s by way of %s, only a default route is possible", r.Destination, r.Gateway)
		case r.Gateway.Is4() && !covered(n, r):
			return refuse("the gateway %s is in no network of interface %s", r.Gateway, r.Interface)
		}
	}
	return nil
}

// covered says whether a prefix of a route's interface holds its gateway.
func covered(n unikernel.Network, r unikernel.Route) bool {
	for _, nic := range n.Interfaces {
		for _, a := range nic.Addresses {
			if nic.Name == r.Interface && a.Contains(r.Gateway) {
				return true
			}
		}
	}
	return false
}

// network returns the orders for one interface that checkNetwork let pass. The kernel counts them from 1
// in the order in which it finds them.
func network(name string, n unikernel.Interface, routes []unikernel.Route) []unikernel.Option {
	var list []unikernel.Option
	set := func(key, value string) {
		list = append(list, unikernel.Option{Name: name + "." + key, Value: value})
	}
	for _, a := range n.Addresses {
		ip := a.Addr()
		switch {
		case ip.Is4():
			set("ipaddr", ip.String())
			set("netmask", netmask(a.Bits()))
		case !ip.IsLinkLocalUnicast():
			set("ip6addr", ip.StringExpanded()) // the kernel does not take every "::"
		}
	}
	for _, r := range routes {
		if r.Interface == n.Name && r.Destination.Bits() == 0 && r.Gateway.Is4() {
			set("gateway", r.Gateway.String())
			set("default", "t")
			break
		}
	}
	if n.MTU > 0 {
		set("mtu", strconv.Itoa(n.MTU))
	}
	return list
}

// netmask writes a prefix's length as an address.
func netmask(bits int) string {
	mask := ^uint32(0)
	if bits < 32 {
		mask = ^(^uint32(0) >> bits)
	}
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}).String()
}
