package nanos

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"containerd-shim-uni/unikernel"
)

// Configure implements unikernel.Watcher.
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
	if app.Spec.Root != nil && app.Spec.Root.Readonly {
		c.Options = append(c.Options, unikernel.Option{Name: "readonly_rootfs", Value: "t"})
	}
	for _, s := range app.Shares {
		c.Files = append(c.Files, unikernel.BootFile{Path: s.Mount.Destination, Source: s.Mount.Source})
	}
	for i, n := range app.Network.Interfaces {
		c.Options = append(c.Options, network("en"+strconv.Itoa(i+1), n, app.Network.Routes)...)
	}
	return c, nil
}

// network returns the orders for one interface. The kernel counts them from 1
// in the order in which it finds them.
func network(name string, n unikernel.Interface, routes []unikernel.Route) []unikernel.Option {
	var list []unikernel.Option
	set := func(key, value string) {
		list = append(list, unikernel.Option{Name: name + "." + key, Value: value})
	}
	var has4, has6 bool
	for _, a := range n.Addresses {
		ip := a.Addr()
		switch {
		case ip.Is4() && !has4:
			has4 = true
			set("ipaddr", ip.String())
			set("netmask", netmask(a.Bits()))
		case ip.Is6() && !has6 && !ip.IsLinkLocalUnicast():
			has6 = true
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
