package nanos

import (
	"errors"
	"net/netip"
	"testing"

	"containerd-shim-uni/unikernel"
)

func TestCheckNetwork(t *testing.T) {
	route := func(to, by string) unikernel.Route {
		return unikernel.Route{Interface: "eth0", Destination: netip.MustParsePrefix(to), Gateway: netip.MustParseAddr(by)}
	}
	for name, test := range map[string]struct {
		addresses []netip.Prefix
		routes    []unikernel.Route
		want      error
	}{
		"none":            {nil, nil, nil},
		"bridge":          {prefixes("10.4.0.2/24", "fe80::1/64"), []unikernel.Route{route("0.0.0.0/0", "10.4.0.1")}, nil},
		"dual stack":      {prefixes("10.4.0.2/24", "fd00::2/64"), []unikernel.Route{route("::/0", "fd00::1")}, nil},
		"two addresses":   {prefixes("10.4.0.2/24", "10.5.0.2/24"), nil, unikernel.ErrNotImplemented},
		"two of IPv6":     {prefixes("fd00::2/64", "fd01::2/64"), nil, unikernel.ErrNotImplemented},
		"static route":    {prefixes("10.4.0.2/24"), []unikernel.Route{route("10.9.0.0/16", "10.4.0.9")}, unikernel.ErrNotImplemented},
		"gateway on link": {prefixes("10.4.0.2/32"), []unikernel.Route{route("0.0.0.0/0", "169.254.1.1")}, unikernel.ErrNotImplemented},
	} {
		n := unikernel.Network{Interfaces: []unikernel.Interface{{Name: "eth0", Addresses: test.addresses}}, Routes: test.routes}
		if err := checkNetwork(n); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}
