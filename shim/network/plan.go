package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// snapshot is what a network namespace held when it was read.
type snapshot struct {
	links     []netlink.Link
	addresses map[int][]netlink.Addr // by link index
	routes    []netlink.Route        // main table
	neighbors []netlink.Neigh
	taken     map[int]bool // links that carry an ingress or clsact qdisc
}

// plan decides what the guest takes over.
//
// Links that are down and have no address are left alone: the kernel makes
// such fallback devices (tunl0, sit0, …) in every namespace. An interface that
// is in use but cannot be carried as Ethernet frames is an error, because the
// guest would silently lack it.
func plan(s snapshot) (unikernel.Network, error) {
	var out unikernel.Network
	names := make(map[int]string)
	for _, link := range s.links {
		attrs := link.Attrs()
		up := attrs.Flags&net.FlagUp != 0
		if attrs.Flags&net.FlagLoopback != 0 || !up && len(s.addresses[attrs.Index]) == 0 {
			continue
		}
		if !up {
			return out, fmt.Errorf("interface %s has addresses but is down: set it up, or remove its addresses: %w", attrs.Name, unikernel.ErrInvalid)
		}
		if attrs.EncapType != "ether" || len(attrs.HardwareAddr) != 6 {
			return out, fmt.Errorf("interface %s is of type %s (%s), a machine can only take over Ethernet interfaces: %w", attrs.Name, link.Type(), attrs.EncapType, unikernel.ErrNotImplemented)
		}
		if strings.HasPrefix(attrs.Name, tapPrefix) || s.taken[attrs.Index] {
			return out, fmt.Errorf("interface %s already carries another machine or a traffic-control program: a network namespace serves one machine: %w", attrs.Name, unikernel.ErrNotImplemented)
		}
		if a := duplicate(s.addresses[attrs.Index]); a != nil {
			return out, fmt.Errorf("interface %s: another host on the link has the address %s: %w", attrs.Name, a.IP, unikernel.ErrInvalid)
		}
		names[attrs.Index] = attrs.Name
		out.Interfaces = append(out.Interfaces, unikernel.Interface{
			Name:      attrs.Name,
			MAC:       attrs.HardwareAddr.String(),
			MTU:       attrs.MTU,
			Addresses: prefixes(s.addresses[attrs.Index]),
			Unrouted:  unrouted(s.addresses[attrs.Index], s.routes),
		})
	}
	out.Routes = routes(s.routes, names)
	for _, n := range s.neighbors {
		address, ok := netip.AddrFromSlice(n.IP)
		if name := names[n.LinkIndex]; name != "" && ok && n.State&unix.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
			out.Neighbors = append(out.Neighbors, unikernel.Neighbor{Interface: name, Address: address.Unmap(), MAC: n.HardwareAddr.String()})
		}
	}
	return out, nil
}

func prefixes(addresses []netlink.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addresses {
		if p, ok := prefix(a.IPNet); ok {
			out = append(out, p)
		}
	}
	return out
}

// unrouted returns the addresses without the route to their prefix that the
// kernel adds with each. Plugins for point-to-point links remove it.
func unrouted(addresses []netlink.Addr, routes []netlink.Route) []netip.Prefix {
	have := make(map[netip.Prefix]bool)
	for _, r := range routes {
		if p, ok := prefix(r.Dst); ok && len(addresses) > 0 && r.LinkIndex == addresses[0].LinkIndex && r.Protocol == unix.RTPROT_KERNEL && r.Gw == nil {
			have[p] = true
		}
	}
	var out []netip.Prefix
	for _, p := range prefixes(addresses) {
		if !p.IsSingleIP() && !have[p.Masked()] {
			out = append(out, p)
		}
	}
	return out
}

// duplicate returns an IPv6 address that was found to be another host's, which
// the kernel therefore does not use.
func duplicate(addresses []netlink.Addr) *netlink.Addr {
	for i, a := range addresses {
		if a.Flags&unix.IFA_F_DADFAILED != 0 && !a.IP.IsLinkLocalUnicast() {
			return &addresses[i]
		}
	}
	return nil
}

// settling says whether some IPv6 address is still being checked for being
// unique. Those that are made of a MAC are not waited for.
func settling(s snapshot) bool {
	for _, addresses := range s.addresses {
		for _, a := range addresses {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&(unix.IFA_F_OPTIMISTIC|unix.IFA_F_DADFAILED) == 0 && !a.IP.IsLinkLocalUnicast() {
				return true
			}
		}
	}
	return false
}

// routes keeps what an administrator or a CNI plugin added; the kernel makes
// the others itself as soon as the guest has the addresses. Routes without a
// gateway come first, since the others need them.
func routes(all []netlink.Route, names map[int]string) []unikernel.Route {
	var out []unikernel.Route
	for _, r := range all {
		name := names[r.LinkIndex]
		if name == "" || r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST {
			continue
		}
		destination, ok := prefix(r.Dst)
		if !ok { // a nil destination is the default route
			destination = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if r.Family == unix.AF_INET6 || r.Gw != nil && r.Gw.To4() == nil {
				destination = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
		}
		route := unikernel.Route{
			Interface:   name,
			Destination: destination,
			Metric:      r.Priority,
			OnLink:      r.Flags&unix.RTNH_F_ONLINK != 0,
			MTU:         r.MTU,
		}
		if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
			route.Gateway = gateway.Unmap()
		}
		if source, ok := netip.AddrFromSlice(r.Src); ok {
			route.Source = source.Unmap()
		}
		out = append(out, route)
	}
	slices.SortStableFunc(out, func(a, b unikernel.Route) int {
		switch {
		case !a.Gateway.IsValid() && b.Gateway.IsValid():
			return -1
		case a.Gateway.IsValid() && !b.Gateway.IsValid():
			return 1
		}
		return 0
	})
	return out
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), ones), true
}
