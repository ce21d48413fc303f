package network

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const podMAC = "0a:58:0a:f4:00:02"

func veth(index int, name string, flags net.Flags) netlink.Link {
	mac, _ := net.ParseMAC(podMAC)
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{
		Index: index, Name: name, MTU: 1450, HardwareAddr: mac, Flags: flags, EncapType: "ether",
	}}
}

func address(cidr string) netlink.Addr {
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		panic(err)
	}
	return *a
}

func linked(index int, cidr string) netlink.Addr {
	a := address(cidr)
	a.LinkIndex = index
	return a
}

func flagged(cidr string, flags int) netlink.Addr {
	a := address(cidr)
	a.Flags = flags
	return a
}

func destination(cidr string) *net.IPNet {
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return n
}

func TestPlan(t *testing.T) {
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo", Flags: net.FlagUp | net.FlagLoopback, EncapType: "loopback"}}
	tunl := &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Index: 2, Name: "tunl0", EncapType: "ipip"}}
	wireguard := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "wg0", Flags: net.FlagUp, EncapType: "none"}}
	gateway := net.ParseIP("10.244.0.1")
	mac, _ := net.ParseMAC("ee:ee:ee:ee:ee:ee")

	tests := []struct {
		name  string
		in    snapshot
		want  unikernel.Network
		is    error
		error string
	}{
		{name: "only loopback and idle tunnels", in: snapshot{links: []netlink.Link{lo, tunl}}},
		{
			name: "bridge plugin, dual stack, any interface name",
			in: snapshot{
				links:     []netlink.Link{lo, veth(5, "net7", net.FlagUp)},
				addresses: map[int][]netlink.Addr{1: {address("127.0.0.1/8")}, 5: {linked(5, "10.244.0.2/24"), linked(5, "fd00::2/64")}},
				routes: []netlink.Route{
					{LinkIndex: 5, Family: unix.AF_INET, Gw: gateway, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT, Priority: 7},
					{LinkIndex: 5, Family: unix.AF_INET, Dst: destination("10.244.0.0/24"), Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_KERNEL},
					{LinkIndex: 5, Family: unix.AF_INET6, Dst: destination("fd00::/64"), Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_KERNEL},
					{LinkIndex: 5, Family: unix.AF_INET6, Gw: net.ParseIP("fd00::1"), Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_BOOT},
					{LinkIndex: 5, Family: unix.AF_INET6, Dst: destination("ff00::/8"), Type: unix.RTN_MULTICAST, Protocol: unix.RTPROT_BOOT},
				},
			},
			want: unikernel.Network{
				Interfaces: []unikernel.Interface{{
					Name: "net7", MAC: podMAC, MTU: 1450,
					Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.2/24"), netip.MustParsePrefix("fd00::2/64")},
				}},
				Routes: []unikernel.Route{
					{Interface: "net7", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.244.0.1"), Metric: 7},
					{Interface: "net7", Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fd00::1")},
				},
			},
		},
		{
			name: "point to point: the route to the gateway comes first",
			in: snapshot{
				links:     []netlink.Link{veth(5, "eth0", net.FlagUp)},
				addresses: map[int][]netlink.Addr{5: {address("10.244.0.2/32")}},
				routes: []netlink.Route{
					{LinkIndex: 5, Family: unix.AF_INET, Gw: gateway, Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK},
					{LinkIndex: 5, Family: unix.AF_INET, Dst: destination("10.244.0.1/32"), Src: net.ParseIP("10.244.0.2"), Type: unix.RTN_UNICAST},
				},
				neighbors: []netlink.Neigh{
					{LinkIndex: 5, IP: gateway, HardwareAddr: mac, State: unix.NUD_PERMANENT},
					{LinkIndex: 5, IP: net.ParseIP("10.244.0.9"), HardwareAddr: mac, State: unix.NUD_REACHABLE},
				},
			},
			want: unikernel.Network{
				Interfaces: []unikernel.Interface{{Name: "eth0", MAC: podMAC, MTU: 1450, Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.2/32")}}},
				Routes: []unikernel.Route{
					{Interface: "eth0", Destination: netip.MustParsePrefix("10.244.0.1/32"), Source: netip.MustParseAddr("10.244.0.2")},
					{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.244.0.1"), OnLink: true},
				},
				Neighbors: []unikernel.Neighbor{{Interface: "eth0", Address: netip.MustParseAddr("10.244.0.1"), MAC: "ee:ee:ee:ee:ee:ee"}},
			},
		},
		{
			name: "the ptp plugin: the network is behind the gateway",
			in: snapshot{
				links:     []netlink.Link{veth(5, "eth0", net.FlagUp), veth(6, "eth1", net.FlagUp)},
				addresses: map[int][]netlink.Addr{5: {linked(5, "10.1.0.2/24")}, 6: {linked(6, "10.2.0.2/24")}},
				routes: []netlink.Route{
					{LinkIndex: 5, Family: unix.AF_INET, Dst: destination("10.1.0.0/24"), Gw: net.ParseIP("10.1.0.1"), Type: unix.RTN_UNICAST},
					{LinkIndex: 5, Family: unix.AF_INET, Dst: destination("10.1.0.1/32"), Type: unix.RTN_UNICAST},
					{LinkIndex: 6, Family: unix.AF_INET, Dst: destination("10.2.0.0/24"), Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_KERNEL},
				},
			},
			want: unikernel.Network{
				Interfaces: []unikernel.Interface{
					{Name: "eth0", MAC: podMAC, MTU: 1450, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}, Unrouted: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}},
					{Name: "eth1", MAC: podMAC, MTU: 1450, Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.2/24")}},
				},
				Routes: []unikernel.Route{
					{Interface: "eth0", Destination: netip.MustParsePrefix("10.1.0.1/32")},
					{Interface: "eth0", Destination: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1")},
				},
			},
		},
		{
			name: "another host has the address", is: unikernel.ErrInvalid, error: "another host on the link has the address fd00::2",
			in: snapshot{links: []netlink.Link{veth(5, "eth0", net.FlagUp)}, addresses: map[int][]netlink.Addr{5: {flagged("fd00::2/64", unix.IFA_F_DADFAILED)}}},
		},
		{name: "not Ethernet", in: snapshot{links: []netlink.Link{wireguard}}, is: unikernel.ErrNotImplemented, error: "wg0"},
		{
			name: "down with an address", is: unikernel.ErrInvalid, error: "eth0 has addresses but is down",
			in: snapshot{links: []netlink.Link{veth(5, "eth0", 0)}, addresses: map[int][]netlink.Addr{5: {address("10.0.0.1/8")}}},
		},
		{
			name: "taken by another machine", is: unikernel.ErrNotImplemented, error: "already carries another machine",
			in: snapshot{links: []netlink.Link{veth(5, "eth0", net.FlagUp)}, taken: map[int]bool{5: true}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := plan(test.in)
			if test.is != nil {
				if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.error) {
					t.Fatalf("error %v, want %v with %q", err, test.is, test.error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTapNamesFit(t *testing.T) {
	key := unikernel.Key("k8s.io", strings.Repeat("f", 64))
	seen := make(map[string]bool)
	for i := range maxInterfaces {
		name := tapName(key, i)
		if len(name) >= unix.IFNAMSIZ || seen[name] {
			t.Errorf("tap name %q is too long or not unique", name)
		}
		seen[name] = true
	}
}

func TestSettling(t *testing.T) {
	for name, test := range map[string]struct {
		address netlink.Addr
		want    bool
	}{
		"settled":    {address("fd00::2/64"), false},
		"tentative":  {flagged("fd00::2/64", unix.IFA_F_TENTATIVE), true},
		"failed":     {flagged("fd00::2/64", unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED), false},
		"optimistic": {flagged("fd00::2/64", unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC), false},
		"link-local": {flagged("fe80::2/64", unix.IFA_F_TENTATIVE), false},
		"IPv4":       {address("10.0.0.1/8"), false},
	} {
		if got := settling(snapshot{addresses: map[int][]netlink.Addr{5: {test.address}}}); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
