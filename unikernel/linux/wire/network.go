package wire

// Network is what the guest configures beside its loopback interface.
type Network struct {
	Interfaces []Interface
	Routes     []Route
	Neighbors  []Neighbor
}

// Interface is one Ethernet interface, found by its address.
type Interface struct {
	Name string
	// MAC is the six bytes of the address.
	MAC string
	MTU uint32
	// Unrouted are addresses like Addresses, but without a route to their prefix.
	Addresses, Unrouted []Prefix
}

// Prefix is an IP address, 4 or 16 bytes, and the length of its prefix.
type Prefix struct {
	IP   string
	Bits uint32
}

// Route is one route of the main table. Gateway and Source are 4 or 16 bytes,
// or empty.
type Route struct {
	Interface       string
	Destination     Prefix
	Gateway, Source string
	Metric, MTU     uint32
	OnLink          bool
}

// Neighbor is a permanent entry of the neighbour table.
type Neighbor struct {
	Interface, IP, MAC string
}

func (n Network) encode(e *Encoder) {
	e.Uint(uint64(len(n.Interfaces)))
	for _, i := range n.Interfaces {
		e.String(i.Name)
		e.String(i.MAC)
		e.Uint(uint64(i.MTU))
		for _, list := range [][]Prefix{i.Addresses, i.Unrouted} {
			e.Uint(uint64(len(list)))
			for _, a := range list {
				a.encode(e)
			}
		}
	}
	e.Uint(uint64(len(n.Routes)))
	for _, r := range n.Routes {
		e.String(r.Interface)
		r.Destination.encode(e)
		e.String(r.Gateway)
		e.String(r.Source)
		e.Uint(uint64(r.Metric))
		e.Uint(uint64(r.MTU))
		e.Bool(r.OnLink)
	}
	e.Uint(uint64(len(n.Neighbors)))
	for _, v := range n.Neighbors {
		e.String(v.Interface)
		e.String(v.IP)
		e.String(v.MAC)
	}
}

func (p Prefix) encode(e *Encoder) {
	e.String(p.IP)
	e.Uint(uint64(p.Bits))
}

func decodeNetwork(d *Decoder) Network {
	return Network{
		Interfaces: list(d, func() Interface {
			return Interface{Name: d.String(), MAC: d.String(), MTU: d.Uint32(),
				Addresses: list(d, func() Prefix { return decodePrefix(d) }), Unrouted: list(d, func() Prefix { return decodePrefix(d) })}
		}),
		Routes: list(d, func() Route {
			return Route{Interface: d.String(), Destination: decodePrefix(d), Gateway: d.String(), Source: d.String(),
				Metric: d.Uint32(), MTU: d.Uint32(), OnLink: d.Bool()}
		}),
		Neighbors: list(d, func() Neighbor {
			return Neighbor{Interface: d.String(), IP: d.String(), MAC: d.String()}
		}),
	}
}

func decodePrefix(d *Decoder) Prefix { return Prefix{IP: d.String(), Bits: d.Uint32()} }
