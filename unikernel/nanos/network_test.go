package nanos

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// routed is a route of eth0, "on" for a gateway being one on the link.
func routed(to, by string) unikernel.Route {
	r := unikernel.Route{Interface: "eth0", Destination: netip.MustParsePrefix(to)}
	if by != "on" {
		r.Gateway = netip.MustParseAddr(by)
	}
	return r
}

func TestNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		addresses, unrouted []netip.Prefix
		routes              []unikernel.Route
		want                string // address, netmask and gateway, then what else
	}{
		"no address":      {nil, nil, nil, "0.0.0.0 255.255.255.255 0.0.0.0"},
		"bridge":          {prefixes("10.4.0.2/24", "fe80::1/64"), nil, []unikernel.Route{routed("0.0.0.0/0", "10.4.0.1")}, "10.4.0.2 255.255.255.0 10.4.0.1 default"},
		"no default":      {prefixes("10.4.0.2/16"), nil, nil, "10.4.0.2 255.255.0.0 0.0.0.0"},
		"dual stack":      {prefixes("10.4.0.2/24", "fd00::2/64"), nil, []unikernel.Route{routed("::/0", "fd00::1")}, "10.4.0.2 255.255.255.0 0.0.0.0 fd00:0000:0000:0000:0000:0000:0000:0002"},
		"IPv6 alone":      {prefixes("fd00::2/80"), nil, []unikernel.Route{routed("::/0", "fd00::1")}, "0.0.0.0 255.255.255.255 0.0.0.0 fd00:0000:0000:0000:0000:0000:0000:0002"},
		"gateway on link": {prefixes("10.4.0.2/32"), nil, []unikernel.Route{routed("169.254.1.1/32", "on"), routed("0.0.0.0/0", "169.254.1.1")}, "10.4.0.2 255.255.255.255 169.254.1.1 default"},
		"ptp plugin": {prefixes("10.1.0.2/24"), prefixes("10.1.0.2/24"),
			[]unikernel.Route{routed("10.1.0.1/32", "on"), routed("10.1.0.0/24", "10.1.0.1"), routed("0.0.0.0/0", "10.1.0.1")}, "10.1.0.2 255.255.255.255 10.1.0.1 default"},
		"a network on the link": {prefixes("10.1.0.2/32"), nil,
			[]unikernel.Route{routed("10.1.0.0/16", "on"), routed("0.0.0.0/0", "10.1.0.1")}, "10.1.0.2 255.255.0.0 10.1.0.1 default"},
		"everything on the link":    {prefixes("10.1.0.2/24"), nil, []unikernel.Route{routed("0.0.0.0/0", "on")}, "10.1.0.2 0.0.0.0 0.0.0.0 default"},
		"route by the same gateway": {prefixes("10.4.0.2/24"), nil, []unikernel.Route{routed("10.9.0.0/16", "10.4.0.1"), routed("0.0.0.0/0", "10.4.0.1")}, "10.4.0.2 255.255.255.0 10.4.0.1 default"},
		"two default routes": {prefixes("10.4.0.2/24"), nil,
			[]unikernel.Route{{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.4.0.9"), Metric: 100}, routed("0.0.0.0/0", "10.4.0.1")}, "10.4.0.2 255.255.255.0 10.4.0.1 default"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := network(unikernel.Network{Routes: test.routes,
				Interfaces: []unikernel.Interface{{Name: "eth0", Addresses: test.addresses, Unrouted: test.unrouted}}})
			if err != nil {
				t.Fatal(err)
			}
			var words []string
			for _, o := range got {
				word := o.Value
				if o.Name == "en1.default" {
					word = "default"
				}
				words = append(words, word)
			}
			if text := strings.Join(words, " "); text != test.want {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
}

// TestNetworkInterfaces: one default interface, each with the least MTU of its
// routes.
func TestNetworkInterfaces(t *testing.T) {
	n := unikernel.Network{
		Interfaces: []unikernel.Interface{{Name: "eth1", MTU: 9000, Addresses: prefixes("10.1.0.2/24")}, {Name: "eth0", MTU: 1500, Addresses: prefixes("10.0.0.2/24")}},
		Routes: []unikernel.Route{{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"),
			Gateway: netip.MustParseAddr("10.0.0.1"), MTU: 1400}},
	}
	got, err := network(n)
	want := []unikernel.Option{
		{Name: "en1.ipaddr", Value: "10.1.0.2"}, {Name: "en1.netmask", Value: "255.255.255.0"}, {Name: "en1.gateway", Value: "0.0.0.0"}, {Name: "en1.mtu", Value: "9000"},
		{Name: "en2.ipaddr", Value: "10.0.0.2"}, {Name: "en2.netmask", Value: "255.255.255.0"}, {Name: "en2.gateway", Value: "10.0.0.1"},
		{Name: "en2.default", Value: "t"}, {Name: "en2.mtu", Value: "1400"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	n.Interfaces[1].Addresses = prefixes("10.1.0.3/24")
	if _, err := network(n); !errors.Is(err, unikernel.ErrNotImplemented) {
		t.Errorf("two interfaces on one network: %v", err)
	}
}

func TestNetworkRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		addresses, unrouted []netip.Prefix
		routes              []unikernel.Route
		neighbors           []unikernel.Neighbor
		want                string
	}{
		"two addresses":         {addresses: prefixes("10.4.0.2/24", "10.5.0.2/24"), want: "2 IPv4 and 0 IPv6 addresses"},
		"two of IPv6":           {addresses: prefixes("fd00::2/64", "fd01::2/64"), want: "0 IPv4 and 2 IPv6 addresses"},
		"static route":          {addresses: prefixes("10.4.0.2/24"), routes: []unikernel.Route{routed("10.9.0.0/16", "10.4.0.9"), routed("0.0.0.0/0", "10.4.0.1")}, want: "10.9.0.0/16 by way of 10.4.0.9"},
		"route without default": {addresses: prefixes("10.4.0.2/24"), routes: []unikernel.Route{routed("10.9.0.0/16", "10.4.0.1")}, want: "10.9.0.0/16 by way of 10.4.0.1"},
		"hole in the network":   {addresses: prefixes("10.4.0.2/24"), routes: []unikernel.Route{routed("10.4.0.128/25", "10.4.0.1"), routed("0.0.0.0/0", "10.4.0.1")}, want: "10.4.0.128/25 by way of 10.4.0.1"},
		"second network":        {addresses: prefixes("10.4.0.2/24"), routes: []unikernel.Route{routed("10.9.0.0/16", "on")}, want: "10.9.0.0/16 on the link"},
		"neighbour":             {addresses: prefixes("10.4.0.2/24"), neighbors: []unikernel.Neighbor{{Interface: "eth0", Address: netip.MustParseAddr("10.4.0.1"), MAC: "ee:ee:ee:ee:ee:ee"}}, want: "neighbour 10.4.0.1"},
		"IPv6 route":            {addresses: prefixes("fd00::2/64"), routes: []unikernel.Route{routed("fd01::/64", "fd00::1")}, want: "fd01::/64 by way of fd00::1"},
		"IPv6 ptp plugin":       {addresses: prefixes("fd00::2/64"), unrouted: prefixes("fd00::2/64"), routes: []unikernel.Route{routed("fd00::1/128", "on"), routed("fd00::/64", "fd00::1")}, want: "fd00::/64 by way of fd00::1"},
		"large IPv6 network":    {addresses: prefixes("fd00::2/48"), want: "network fd00::/48 on the link"},
		"IPv6 on the link":      {addresses: prefixes("fd00::2/64"), routes: []unikernel.Route{routed("fd01::1/128", "on")}, want: "network fd01::1/128 on the link"},
	} {
		n := unikernel.Network{Routes: test.routes, Neighbors: test.neighbors,
			Interfaces: []unikernel.Interface{{Name: "eth0", Addresses: test.addresses, Unrouted: test.unrouted}}}
		got, err := network(n)
		if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(fmt.Sprint(err), test.want) || !strings.Contains(err.Error(), "use guest linux") {
			t.Errorf("%s: %v, %v; want an error with %q", name, got, err, test.want)
		}
	}
}

func TestIPv6DefaultRouteIsTold(t *testing.T) {
	n := unikernel.Network{Routes: []unikernel.Route{
		{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1")},
		{Interface: "eth0", Destination: netip.MustParsePrefix("fe80::/64")},
		{Interface: "eth0", Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fe80::1")},
	}}
	want := []string{"IPv6 default route by fe80::1 on eth0, unless that router advertises it"}
	if got := unlearnt(n); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
