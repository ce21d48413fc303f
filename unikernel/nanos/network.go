package nanos

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"containerd-shim-uni/unikernel"
)

// What the kernel can be told of an interface is one IPv4 address with a mask
// and a gateway, one IPv6 address, and an MTU (get_static_config and
// get_static_ip6_config in Nanos' src/net/net.c). How it then sends (ip4_route
// in lwIP's ipv4/ip4.c, etharp_output in ipv4/etharp.c):
//
//   - what the mask covers, and 169.254.0.0/16, goes straight to its neighbour;
//   - all else leaves by the one default interface, to its gateway. The gateway
//     need not be covered by the mask;
//   - without the key "gateway" it makes one up, so none is written as 0.0.0.0.
//
// So a table of routes can be honoured if some mask and gateway say the same.
// IPv6: an address has the 64 bits before it on the link, whatever its prefix,
// and gateways are learnt from router advertisements alone (nd6.c).

// linkLocal4 is what every host has on its link, RFC 3927.
var linkLocal4 = netip.MustParsePrefix("169.254.0.0/16")

// onLink6 is the length of the prefix that comes with an IPv6 address.
const onLink6 = 64

// network returns the orders that make the kernel's network what the host's
// namespace had, or refuses what has no orders.
func network(n unikernel.Network) ([]unikernel.Option, error) {
	def := defaultRoute(n.Routes)
	var list []unikernel.Option
	var taken []netip.Prefix
	for i, nic := range n.Interfaces {
		l, err := newLink(nic, n, def)
		if err != nil {
			return nil, err
		}
		if l.v4.IsValid() {
			for _, other := range taken {
				if other.Overlaps(l.v4) {
					return nil, refuseNetwork("interface %s: network %s is that of another interface too", nic.Name, l.v4.Masked())
				}
			}
			taken = append(taken, l.v4.Masked())
		}
		// The kernel counts interfaces from 1 in the order in which it finds them.
		list = append(list, l.options("en"+strconv.Itoa(i+1))...)
	}
	return list, nil
}

// unlearnt lists the IPv6 default routes, which the kernel has only when a
// router advertises them.
func unlearnt(n unikernel.Network) []string {
	var list []string
	for _, r := range n.Routes {
		if r.Destination.Addr().Is6() && r.Destination.Bits() == 0 && r.Gateway.IsValid() {
			list = append(list, fmt.Sprintf("IPv6 default route by %s on %s, unless that router advertises it", r.Gateway, r.Interface))
		}
	}
	return list
}

func refuseNetwork(format string, args ...any) error {
	return fmt.Errorf("%w: guest %s: %s; use guest linux", unikernel.ErrNotImplemented, Name, fmt.Sprintf(format, args...))
}

// defaultRoute returns the IPv4 route that is taken when no other fits, or nil.
func defaultRoute(routes []unikernel.Route) *unikernel.Route {
	var best *unikernel.Route
	for i, r := range routes {
		if r.Destination.Addr().Is4() && r.Destination.Bits() == 0 && (best == nil || r.Metric < best.Metric) {
			best = &routes[i]
		}
	}
	return best
}

// link is what the kernel is told of one interface.
type link struct {
	v4      netip.Prefix // with the mask that honours the routes
	gateway netip.Addr   // of IPv4, invalid without
	first   bool         // the default interface
	v6      netip.Addr
	mtu     int
}

func newLink(nic unikernel.Interface, n unikernel.Network, def *unikernel.Route) (link, error) {
	l := link{mtu: nic.MTU}
	var v4, v6 []netip.Prefix
	for _, a := range nic.Addresses {
		switch {
		case a.Addr().Is4():
			v4 = append(v4, a)
		case !a.Addr().IsLinkLocalUnicast():
			v6 = append(v6, a)
		}
	}
	if len(v4) > 1 || len(v6) > 1 {
		return l, refuseNetwork("interface %s has %d IPv4 and %d IPv6 addresses, one of each is possible", nic.Name, len(v4), len(v6))
	}
	for _, v := range n.Neighbors {
		if v.Interface == nic.Name {
			return l, refuseNetwork("interface %s has a permanent entry for the neighbour %s, the kernel only asks for neighbours", nic.Name, v.Address)
		}
	}
	var routes4, routes6 []unikernel.Route
	for _, r := range n.Routes {
		if r.Interface != nic.Name {
			continue
		}
		if r.MTU > 0 && (l.mtu == 0 || r.MTU < l.mtu) {
			l.mtu = r.MTU // there is one for all destinations: the least
		}
		if r.Destination.Addr().Is4() {
			routes4 = append(routes4, r)
		} else {
			routes6 = append(routes6, r)
		}
	}
	if len(v6) == 1 {
		l.v6 = v6[0].Addr()
		if err := checkIPv6(nic, v6[0], routes6); err != nil {
			return l, err
		}
	}
	if len(v4) == 0 {
		return l, nil
	}
	if l.first = def != nil && def.Interface == nic.Name; l.first {
		l.gateway = def.Gateway
	}
	var err error
	l.v4, err = l.mask(nic, v4[0], withConnected(nic, v4[0], routes4))
	return l, err
}

// withConnected adds the route that comes with an address.
func withConnected(nic unikernel.Interface, own netip.Prefix, routes []unikernel.Route) []unikernel.Route {
	if slices.Contains(nic.Unrouted, own) || own.IsSingleIP() {
		return routes
	}
	return append([]unikernel.Route{{Interface: nic.Name, Destination: own.Masked()}}, routes...)
}

// mask returns the address with the mask under which the kernel sends as the
// routes say.
func (l link) mask(nic unikernel.Interface, own netip.Prefix, routes []unikernel.Route) (netip.Prefix, error) {
	try := []netip.Prefix{netip.PrefixFrom(own.Addr(), own.Addr().BitLen())}
	for _, r := range routes {
		if !r.Gateway.IsValid() && r.Destination.Contains(own.Addr()) {
			try = append(try, netip.PrefixFrom(own.Addr(), r.Destination.Bits()))
		}
	}
	slices.SortFunc(try, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	var first error
	for _, p := range try {
		err := l.agrees(p.Masked(), routes)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
	}
	return own, fmt.Errorf("interface %s: %w", nic.Name, first)
}

// agrees refuses the route that a mask does not honour.
func (l link) agrees(covered netip.Prefix, routes []unikernel.Route) error {
	within := func(d, p netip.Prefix) bool { return d.Bits() >= p.Bits() && p.Contains(d.Addr()) }
	for _, r := range routes {
		d := r.Destination
		switch {
		case d.Bits() == 0 && r.Gateway.IsValid(): // the best one is the gateway; others are never used
		case !r.Gateway.IsValid():
			gateway := l.gateway.IsValid() && d == netip.PrefixFrom(l.gateway, 32)
			if !gateway && !within(d, covered) && !within(d, linkLocal4) {
				return refuseNetwork("a route to %s on the link, the kernel knows one network and one gateway on it", d)
			}
		case !l.first || r.Gateway != l.gateway || !covered.IsSingleIP() && d.Overlaps(covered):
			return refuseNetwork("a route to %s by way of %s, only a default route is possible", d, r.Gateway)
		}
	}
	return nil
}

// checkIPv6 refuses routes that the kernel would not follow. A default route is
// let pass: the kernel learns it from router advertisements, or has none.
func checkIPv6(nic unikernel.Interface, own netip.Prefix, routes []unikernel.Route) error {
	covered := netip.PrefixFrom(own.Addr(), onLink6).Masked()
	for _, r := range withConnected(nic, own, routes) {
		d := r.Destination
		switch {
		case d.Bits() == 0 && r.Gateway.IsValid(), d.Addr().IsLinkLocalUnicast(), d.Addr().IsMulticast():
		case r.Gateway.IsValid():
			return refuseNetwork("interface %s: a route to %s by way of %s, the kernel learns gateways of IPv6 from router advertisements alone", nic.Name, d, r.Gateway)
		case d.Bits() < onLink6 || !covered.Contains(d.Addr()):
			return refuseNetwork("interface %s: network %s on the link, the kernel takes %s for it", nic.Name, d, covered)
		}
	}
	return nil
}

// options writes a link in the kernel's terms. An interface without an IPv4
// address gets none either: the kernel would ask for one by DHCP.
func (l link) options(name string) []unikernel.Option {
	var list []unikernel.Option
	set := func(key, value string) {
		list = append(list, unikernel.Option{Name: name + "." + key, Value: value})
	}
	none := netip.IPv4Unspecified()
	address, gateway, bits := none, none, 32
	if l.v4.IsValid() {
		address, bits = l.v4.Addr(), l.v4.Bits()
	}
	if l.gateway.Is4() {
		gateway = l.gateway
	}
	set("ipaddr", address.String())
	set("netmask", netmask(bits))
	set("gateway", gateway.String())
	if l.v6.IsValid() {
		set("ip6addr", l.v6.StringExpanded()) // the kernel does not take every "::"
	}
	if l.first {
		set("default", "t")
	}
	if l.mtu > 0 {
		set("mtu", strconv.Itoa(l.mtu))
	}
	return list
}

// netmask writes a prefix's length as an address.
func netmask(bits int) string {
	mask := ^(^uint32(0) >> bits)
	return netip.AddrFrom4([4]byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}).String()
}
