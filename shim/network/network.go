package network

import (
	"errors"
	"fmt"
	"os"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tapPrefix starts the name of every tap this package makes. With 11 digits of
// the container's key (44 bits) and one for the interface's place, a name has
// 15 bytes, the most the kernel takes (IFNAMSIZ - 1).
const tapPrefix = "uni"

// maxInterfaces is how many interfaces one machine can take over.
const maxInterfaces = 16

// The kernel takes a second or two to find out that an IPv6 address is unique.
// One that it cannot tell about, for lack of a link, is taken as it is.
const settleTimeout, settleInterval = 3 * time.Second, 20 * time.Millisecond

// Linker joins machines to network namespaces. Its zero value filters what
// guests send.
type Linker struct {
	// AllowSpoofing turns off the filter on source addresses.
	AllowSpoofing bool
}

// tapName is the name of the tap of a container's i-th interface.
func tapName(key string, i int) string {
	return fmt.Sprintf("%s%.11s%x", tapPrefix, key, i)
}

// Look reads the network namespace at path and says what a machine in it takes
// over. A namespace that cannot be honoured is unikernel.ErrNotImplemented or
// ErrInvalid with the reason.
func (Linker) Look(path string) (unikernel.Network, error) {
	var found unikernel.Network
	err := inNamespace(path, func(h *netlink.Handle) error {
		s, err := read(h)
		for began := time.Now(); err == nil && settling(s) && time.Since(began) < settleTimeout; s, err = read(h) {
			time.Sleep(settleInterval)
		}
		if err != nil {
			return err
		}
		found, err = plan(s)
		return err
	})
	if err == nil && len(found.Interfaces) > maxInterfaces {
		err = fmt.Errorf("%d interfaces, a machine takes at most %d: %w", len(found.Interfaces), maxInterfaces, unikernel.ErrNotImplemented)
	}
	if err != nil {
		return unikernel.Network{}, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return found, nil
}

func read(h *netlink.Handle) (snapshot, error) {
	s := snapshot{addresses: make(map[int][]netlink.Addr), taken: make(map[int]bool)}
	var err error
	if s.links, err = h.LinkList(); err != nil {
		return s, fmt.Errorf("list links: %w", err)
	}
	addresses, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return s, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		s.addresses[a.LinkIndex] = append(s.addresses[a.LinkIndex], a)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return s, fmt.Errorf("list routes: %w", err)
		}
		s.routes = append(s.routes, routes...)
	}
	if s.neighbors, err = h.NeighList(0, 0); err != nil {
		return s, fmt.Errorf("list neighbours: %w", err)
	}
	for _, link := range s.links {
		qdiscs, err := h.QdiscList(link)
		if err != nil {
			return s, fmt.Errorf("list queueing disciplines of %s: %w", link.Attrs().Name, err)
		}
		for _, q := range qdiscs {
			if q.Attrs().Parent == netlink.HANDLE_CLSACT {
				s.taken[link.Attrs().Index] = true
			}
		}
	}
	return s, nil
}

// Tap makes the taps for a network and returns the machine's interfaces. They
// are made in the network namespace at path for a QEMU that will run in there,
// or in the host's if path is empty. When it fails it leaves none.
func (l Linker) Tap(key, path string, n unikernel.Network, queues int) ([]unikernel.NIC, error) {
	var nics []unikernel.NIC
	var err error
	if len(n.Interfaces) == 0 {
		return nil, nil
	}
	if path == "" {
		nics, err = addTaps(key, n, queues)
	} else {
		err = Within(path, func() (err error) {
			nics, err = addTaps(key, n, queues)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(err, l.Remove(key, path))
	}
	return nics, nil
}

func addTaps(key string, n unikernel.Network, queues int) ([]unikernel.NIC, error) {
	var nics []unikernel.NIC
	for i, nic := range n.Interfaces {
		tap := &netlink.Tuntap{
			LinkAttrs: netlink.LinkAttrs{Name: tapName(key, i), MTU: nic.MTU},
			Mode:      netlink.TUNTAP_MODE_TAP,
			Flags:     netlink.TUNTAP_DEFAULTS | netlink.TUNTAP_VNET_HDR,
		}
		if queues > 1 {
			tap.Flags = netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR
		}
		if err := addTap(tap); err != nil {
			return nil, fmt.Errorf("make tap %s for interface %s: %w", tap.Name, nic.Name, err)
		}
		nics = append(nics, unikernel.NIC{Tap: tap.Name, MAC: nic.MAC, MTU: nic.MTU, Queues: queues})
	}
	return nics, nil
}

func addTap(tap *netlink.Tuntap) error {
	if err := netlink.LinkAdd(tap); err != nil {
		return err
	}
	for _, queue := range tap.Fds {
		queue.Close()
	}
	link, err := netlink.LinkByName(tap.Name)
	if err != nil {
		return err
	}
	// The tap has no address and answers nothing, wherever it is.
	return errors.Join(
		netlink.LinkSetMTU(link, tap.MTU),
		netlink.LinkSetARPOff(link),
		ignore(unix.EOPNOTSUPP, netlink.LinkSetIP6AddrGenMode(link, 1)), // IN6_ADDR_GEN_MODE_NONE
	)
}

// Join links the taps of a machine to the interfaces of the network namespace
// at path. Taps that are still in the host's namespace are moved first; QEMU
// must have opened those. It may be called while the machine is paused.
func (l Linker) Join(key, path string, n unikernel.Network) error {
	if len(n.Interfaces) == 0 {
		return nil
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	for i := range n.Interfaces {
		name := tapName(key, i)
		tap, err := netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue // made in the namespace
		}
		if err != nil {
			return fmt.Errorf("find tap %s: %w", name, err)
		}
		if err := netlink.LinkSetNsFd(tap, int(ns)); err != nil {
			return fmt.Errorf("move tap %s into %s: %w", name, path, err)
		}
	}
	// Best effort: kernels since 5.11 account program memory differently and
	// need no limit; older ones say so themselves when loading fails.
	_ = rlimit.RemoveMemlock()
	return inNamespace(path, func(h *netlink.Handle) error {
		for i, nic := range n.Interfaces {
			if err := l.link(h, key, i, nic); err != nil {
				return fmt.Errorf("link interface %s in %s: %w", nic.Name, path, err)
			}
		}
		return nil
	})
}

// link carries frames both ways between a tap and an interface.
func (l Linker) link(h *netlink.Handle, key string, i int, nic unikernel.Interface) error {
	tap, err := h.LinkByName(tapName(key, i))
	if err != nil {
		return fmt.Errorf("find tap %s: %w", tapName(key, i), err)
	}
	iface, err := h.LinkByName(nic.Name)
	if err != nil {
		return err
	}
	outward := redirect(iface.Attrs().Index)
	if !l.AllowSpoofing {
		if outward, err = guard(iface.Attrs().Index, nic); err != nil {
			return err
		}
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set %s up: %w", tap.Attrs().Name, err)
	}
	return errors.Join(
		classify(h, key, tap, outward),
		classify(h, key, iface, redirect(tap.Attrs().Index)),
	)
}

// classify runs a program on every frame that comes in through a link. When it fails
// it leaves nothing.
func classify(h *netlink.Handle, key string, link netlink.Link, instructions asm.Instructions) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "uni_link", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: instructions,
	})
	if err != nil {
		return fmt.Errorf("load the program of %s: %w", link.Attrs().Name, err)
	}
	defer program.Close()
	index := link.Attrs().Index
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := h.QdiscAdd(qdisc); err != nil {
		return fmt.Errorf("add clsact to %s: %w", link.Attrs().Name, err)
	}
	err = h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1,
		},
		Fd: program.FD(), Name: filterName(key), DirectAction: true,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("add the program to %s: %w", link.Attrs().Name, err), h.QdiscDel(qdisc))
	}
	return nil
}

// Remove deletes every tap of a container, in the host's namespace and, unless
// path is empty, in the network namespace at path, and unlinks its interfaces
// there. Absent taps and an absent namespace are not an error.
func (Linker) Remove(key, path string) error {
	host, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	errs := []error{removeTaps(host, key)}
	if path != "" {
		err := inNamespace(path, func(h *netlink.Handle) error { return errors.Join(removeTaps(h, key), unlink(h, key)) })
		if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func removeTaps(h *netlink.Handle, key string) error {
	var errs []error
	for i := range maxInterfaces {
		tap, err := h.LinkByName(tapName(key, i))
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err == nil {
			err = h.LinkDel(tap)
		}
		errs = append(errs, ignore(unix.ENODEV, err))
	}
	return errors.Join(errs...)
}

// filterName tells a container's programs from everybody else's.
func filterName(key string) string { return "uni-" + key }

// unlink takes a container's programs off the interfaces of a namespace, so
// that its addresses answer again or another machine can take it over.
func unlink(h *netlink.Handle, key string) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, link := range links {
		filters, err := h.FilterList(link, netlink.HANDLE_MIN_INGRESS)
		if err != nil {
			continue // no clsact on it
		}
		for _, filter := range filters {
			if f, ok := filter.(*netlink.BpfFilter); ok && f.Name == filterName(key) {
				errs = append(errs, h.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
					LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
				}}))
				break
			}
		}
	}
	return errors.Join(errs...)
}

func ignore(target, err error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
