package main

import (
	"os"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"

	"golang.org/x/sys/unix"
)

// setNetwork configures the machine's interfaces as the host's network
// namespace had them.
func setNetwork(n *wire.Network) error {
	if len(n.Interfaces) == 0 {
		return nil
	}
	c, err := openRoute()
	if err != nil {
		return err
	}
	defer c.close()
	index, err := c.nameInterfaces(n.Interfaces)
	if err != nil {
		return err
	}
	for _, nic := range n.Interfaces {
		for _, a := range nic.Addresses {
			if err := c.addAddress(index[nic.Name], a, true); err != nil {
				return wrap("add an address to "+nic.Name, err)
			}
		}
		for _, a := range nic.Unrouted {
			if err := c.addAddress(index[nic.Name], a, false); err != nil {
				return wrap("add an address to "+nic.Name, err)
			}
		}
	}
	for _, v := range n.Neighbors {
		if err := c.addNeighbor(index[v.Interface], v); err != nil {
			return wrap("add a neighbour to "+v.Interface, err)
		}
	}
	for _, r := range n.Routes {
		if err := c.addRoute(index[r.Interface], r); err != nil {
			return wrap("add a route through "+r.Interface, err)
		}
	}
	return nil
}

// nameInterfaces finds each interface by its address, names it, sets it up and
// returns the indices by name. The names move by way of temporary ones: one
// may be wanted that another interface still has.
func (c *route) nameInterfaces(nics []wire.Interface) (map[string]uint32, error) {
	index := make(map[string]uint32)
	for i, nic := range nics {
		found, err := findInterface(nic.MAC)
		if err != nil {
			return nil, wrap("find interface "+nic.Name, err)
		}
		index[nic.Name] = found
		if err := c.setLink(found, temporaryName(i), 0, false); err != nil {
			return nil, wrap("rename interface "+nic.Name, err)
		}
	}
	if err := refuseAdvertisements(len(nics)); err != nil {
		return nil, err
	}
	for _, nic := range nics {
		if err := c.setLink(index[nic.Name], nic.Name, nic.MTU, true); err != nil {
			return nil, wrap("set interface "+nic.Name+" up", err)
		}
	}
	return index, nil
}

func temporaryName(i int) string { return "uni-tmp" + string(rune('a'+i)) }

// refuseAdvertisements has the interfaces, before they are up, configured by
// nobody else: what the host says is all, and the host drops what comes from
// an address that a router's advertisement made. What the kernel has for "all"
// is nothing that it looks at, and "default" is for interfaces that come later.
func refuseAdvertisements(interfaces int) error {
	const conf = "/proc/sys/net/ipv6/conf/"
	names := []string{"default"}
	for i := range interfaces {
		names = append(names, temporaryName(i))
	}
	for _, name := range names {
		if err := os.WriteFile(conf+name+"/accept_ra", []byte("0"), 0); err != nil && !os.IsNotExist(err) {
			return err // a kernel without IPv6 has no such file
		}
	}
	return nil
}

// findInterface returns the index of the interface with that address. Its
// driver may still be at work.
func findInterface(mac string) (uint32, error) {
	const dir = "/sys/class/net"
	for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(time.Millisecond) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			address, _ := os.ReadFile(dir + "/" + e.Name() + "/address")
			if trimLine(address) != formatMAC(mac) {
				continue
			}
			text, err := os.ReadFile(dir + "/" + e.Name() + "/ifindex")
			if err != nil {
				return 0, err
			}
			index, ok := parseUint(trimLine(text))
			if !ok {
				return 0, &failure{wire.CodeInternal, "its index is no number"}
			}
			return index, nil
		}
	}
	return 0, &failure{wire.CodeInternal, "the machine has none with the address " + formatMAC(mac)}
}

// formatMAC writes an address as the kernel does.
func formatMAC(mac string) string {
	const hex = "0123456789abcdef"
	var out []byte
	for i := 0; i < len(mac); i++ {
		if i > 0 {
			out = append(out, ':')
		}
		out = append(out, hex[mac[i]>>4], hex[mac[i]&15])
	}
	return string(out)
}

func family(ip string) uint8 {
	if len(ip) == 4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// setLink renames an interface and, when up, sets its MTU in bytes and state.
func (c *route) setLink(index uint32, name string, mtu uint32, up bool) error {
	var flags uint32
	if up {
		flags = unix.IFF_UP
	}
	m := newMessage(unix.RTM_NEWLINK, 0)
	m.bytes(unix.AF_UNSPEC, 0)
	m.uint16(0)
	m.uint32(index)
	m.uint32(flags)
	m.uint32(unix.IFF_UP) // change mask
	m.attr(unix.IFLA_IFNAME, []byte(name+"\x00"))
	if mtu != 0 {
		m.attr32(unix.IFLA_MTU, mtu)
	}
	return c.do(m)
}

// addAddress adds an address, with the route to its prefix if that is wanted;
// one that is there already is fine. Whether an IPv6 address is unique was
// settled when the host got it.
func (c *route) addAddress(index uint32, a wire.Prefix, routed bool) error {
	flags := uint32(unix.IFA_F_NODAD)
	if !routed {
		flags |= unix.IFA_F_NOPREFIXROUTE
	}
	m := newMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m.bytes(family(a.IP), uint8(a.Bits), 0, unix.RT_SCOPE_UNIVERSE)
	m.uint32(index)
	m.attr32(unix.IFA_FLAGS, flags) // all of them: the header has room for eight
	m.attr(unix.IFA_LOCAL, []byte(a.IP))
	m.attr(unix.IFA_ADDRESS, []byte(a.IP))
	if len(a.IP) == 4 && a.Bits < 31 {
		m.attr(unix.IFA_BROADCAST, broadcast(a))
	}
	return c.do(m)
}

func broadcast(a wire.Prefix) []byte {
	out := []byte(a.IP)
	for bit := int(a.Bits); bit < 8*len(out); bit++ {
		out[bit/8] |= 0x80 >> (bit % 8)
	}
	return out
}

func (c *route) addNeighbor(index uint32, v wire.Neighbor) error {
	m := newMessage(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m.bytes(family(v.IP), 0)
	m.uint16(0)
	m.uint32(index)
	m.uint16(unix.NUD_PERMANENT)
	m.bytes(0, unix.RTN_UNICAST)
	m.attr(unix.NDA_DST, []byte(v.IP))
	m.attr(unix.NDA_LLADDR, []byte(v.MAC))
	return c.do(m)
}

func (c *route) addRoute(index uint32, r wire.Route) error {
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	if r.Gateway == "" && len(r.Destination.IP) == 4 {
		scope = unix.RT_SCOPE_LINK
	}
	var flags uint32
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	m := newMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m.bytes(family(r.Destination.IP), uint8(r.Destination.Bits), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, scope, unix.RTN_UNICAST)
	m.uint32(flags)
	if r.Destination.Bits > 0 {
		m.attr(unix.RTA_DST, []byte(r.Destination.IP))
	}
	m.attr32(unix.RTA_OIF, index)
	if r.Gateway != "" {
		if len(r.Gateway) == len(r.Destination.IP) {
			m.attr(unix.RTA_GATEWAY, []byte(r.Gateway))
		} else { // struct rtvia: an IPv4 destination by way of an IPv6 neighbour
			m.attr(unix.RTA_VIA, append([]byte{family(r.Gateway), 0}, r.Gateway...))
		}
	}
	if r.Source != "" {
		m.attr(unix.RTA_PREFSRC, []byte(r.Source))
	}
	if r.Metric != 0 {
		m.attr32(unix.RTA_PRIORITY, r.Metric)
	}
	if r.MTU != 0 {
		var metrics message
		metrics.attr32(unix.RTAX_MTU, r.MTU)
		m.attr(unix.RTA_METRICS|unix.NLA_F_NESTED, metrics.b)
	}
	return c.do(m)
}
