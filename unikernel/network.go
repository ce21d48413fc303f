package unikernel

import "net/netip"

// Network is what the guest takes over from the container's network
// namespace, so that everything outside sees one host with one address.
type Network struct {
	Interfaces []Interface
	Routes     []Route
	Neighbors  []Neighbor
}

// Interface is one Ethernet interface of the guest. The guest finds it by its
// address and gives it the name it has in the network namespace.
type Interface struct {
	Name string
	// MAC in the usual notation, "0a:58:0a:f4:00:02".
	MAC string
	// MTU in bytes.
	MTU int
	// Addresses with the length of their on-link prefix.
	Addresses []netip.Prefix
	// Unrouted are those of Addresses whose prefix is not on the link after
	// all: the route to it that comes with an address was removed.
	Unrouted []netip.Prefix
}

// Route is one route of the main table.
type Route struct {
	// Interface names the Interface it leaves by.
	Interface string
	// Destination is the prefix; 0.0.0.0/0 or ::/0 is the default route.
	Destination netip.Prefix
	// Gateway is invalid for a destination on the link.
	Gateway netip.Addr
	// Source is the preferred source address; may be invalid.
	Source netip.Addr
	// Metric is the priority; 0 is the kernel's default.
	Metric int
	// OnLink says the gateway is reachable although no prefix covers it.
	OnLink bool
	// MTU in bytes; 0 is the interface's.
	MTU int
}

// Neighbor is a permanent entry of the neighbour table.
type Neighbor struct {
	Interface string
	Address   netip.Addr
	MAC       string
}
