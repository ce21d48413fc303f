// Package network joins a machine to the network namespace that containerd,
// nerdctl or Kubernetes prepared for its container.
//
// The guest takes over every Ethernet interface of the namespace: name, MAC,
// MTU, addresses, routes and permanent neighbours. Frames are carried by two
// small traffic-control programs (eBPF, direct action) between the interface
// and the machine's tap, both inside the namespace:
//
//	     host            │ container's netns                      │ machine
//	bridge ── veth (host) ── eth0 ── ingress: redirect ──▶ tap ──▶ eth0
//	                     │   eth0 ◀── ingress: filter, redirect ── tap ◀─ eth0
//
// The namespace's own stack sees none of these frames, so the addresses can
// stay on the interface, and everything outside that reads them stays true.
// The filter drops frames whose source MAC or IP address is not the
// interface's.
//
// The life of a tap:
//
//	Look   reads the namespace and decides (plan is a pure function)
//	Tap    makes one tap an interface in the host's namespace, for QEMU to open
//	Join   moves the taps of a paused machine into the netns and links them
//	Remove deletes what is left, from the container's key alone
//
// Occupy puts a process into the container's namespace that stands for it on the
// host, see package standin.
//
// A tap's name derives from the container's key, so Remove needs no state, and
// a namespace that vanishes takes its taps along.
package network
