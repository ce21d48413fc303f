package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"containerd-shim-uni/unikernel"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses on which one listener each takes the connections of a family.
var loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}

// Listen takes every TCP connection that somebody makes within the network
// namespace at path to an address of the namespace's own, unless something listens
// there. What a connection was for is its local address. There is one listener for
// each family that the namespace has; when they are closed connections are refused
// again, and Remove takes the rest away.
//
// The host's own namespace is unikernel.ErrNotImplemented. When Listen fails,
// nothing has changed.
func (Linker) Listen(key, path string) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(listeners)
			listeners, err = nil, fmt.Errorf("listen in network namespace %s: %w", path, err)
		}
	}()
	if err := notHost(path); err != nil {
		return nil, err
	}
	if listeners, err = listen(path); err != nil {
		return listeners, err
	}
	var at []netip.AddrPort
	for _, l := range listeners {
		at = append(at, l.Addr().(*net.TCPAddr).AddrPort())
	}
	_ = rlimit.RemoveMemlock() // see Join
	return listeners, inNamespace(path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return classify(h, key, lo, catch(at))
	})
}

// listen makes a listener for each family. It returns those there are beside an
// error.
func listen(path string) (listeners []net.Listener, err error) {
	err = Within(path, func() error {
		for _, address := range loopbacks {
			var plain net.ListenConfig
			plain.SetMultipathTCP(false) // the program looks for plain TCP
			l, err := plain.Listen(context.Background(), "tcp", netip.AddrPortFrom(address, 0).String())
			if address.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
				continue // no IPv6
			}
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	})
	return listeners, err
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// notHost refuses the network namespace of the host: that of this process or of the
// first one.
func notHost(path string) error {
	target, err := open(path)
	if err != nil {
		return err
	}
	defer target.Close()
	for _, host := range []string{"/proc/self/ns/net", "/proc/1/ns/net"} {
		ns, err := netns.GetFromPath(host)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			continue // who may not see the first process has no host beyond its own
		}
		if err != nil {
			return err
		}
		same := ns.Equal(target)
		ns.Close()
		if same {
			return fmt.Errorf("it is the host's: %w", unikernel.ErrNotImplemented)
		}
	}
	return nil
}

// What catch reads of a segment, by its offset in bytes (RFC 791, 8200, 9293).
const (
	protocolTCP    = 6
	offsetIPv4Next = 14 + 9
	offsetTCPFlags = 13

	flagFIN, flagSYN, flagRST, flagACK = 1, 2, 4, 16

	actionUnspecified = -1 // TC_ACT_UNSPEC: as if there were no program
	currentNetNS      = -1 // BPF_F_CURRENT_NETNS
	stackTuple        = -64
)

// catch is the program for a namespace's loopback interface, over which all goes
// that is sent to an address of its own. The first segment of a TCP connection is
// given to the listener of its family. Not caught is what belongs to a connection
// that is being made, and what something listens for; without the listener nothing is.
func catch(listeners []netip.AddrPort) asm.Instructions {
	program := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	program = append(program, loadOr("pass", offsetEtherType, stackEthernet, 2)...)
	program = append(program, asm.LoadMem(asm.R7, asm.RFP, stackEthernet, asm.Half))
	var families asm.Instructions
	for _, l := range listeners {
		if l.Addr().Is4() {
			program = append(program, asm.JEq.Imm(asm.R7, network16(etherIPv4), "ipv4"))
			families = append(families, at("ipv4", catch4(l))...)
		} else {
			program = append(program, asm.JEq.Imm(asm.R7, network16(etherIPv6), "ipv6"))
			families = append(families, at("ipv6", catch6(l))...)
		}
	}
	program = append(program, asm.Ja.Label("pass"))
	program = append(program, families...)
	return append(program,
		asm.Mov.Reg(asm.R1, asm.R7).WithSymbol("release"),
		asm.FnSkRelease.Call(),
		asm.LoadImm(asm.R0, actionUnspecified, asm.DWord).WithSymbol("pass"),
		asm.Return(),
	)
}

// The tuple by which a socket is looked for (struct bpf_sock_tuple) has addresses and
// ports as a packet has them.

func catch4(l netip.AddrPort) asm.Instructions {
	// How long the header is comes in its first byte, in words.
	program := loadOr("pass", 14, stackEthernet, 1)
	program = append(program,
		asm.LoadMem(asm.R8, asm.RFP, stackEthernet, asm.Byte),
		asm.And.Imm(asm.R8, 0xf),
		asm.LSh.Imm(asm.R8, 2),
		asm.Add.Imm(asm.R8, 14),
	)
	program = append(program, loadOr("pass", offsetIPv4Next, stackEthernet, 1)...)
	program = append(program, loadOr("pass", offsetIPv4Source, stackTuple, 8)...)
	return append(program, assign(l, 4)...)
}

func catch6(l netip.AddrPort) asm.Instructions {
	program := asm.Instructions{asm.Mov.Imm(asm.R8, 14+40)}
	program = append(program, loadOr("pass", offsetIPv6Next, stackEthernet, 1)...)
	program = append(program, loadOr("pass", offsetIPv6Source, stackTuple, 32)...)
	return append(program, assign(l, 16)...)
}

// assign goes on where the protocol is on the stack, the addresses are in the tuple
// there, size bytes each, and R8 is where the protocol's header begins.
func assign(l netip.AddrPort, size int16) asm.Instructions {
	ports := stackTuple + 2*size
	program := asm.Instructions{
		asm.LoadMem(asm.R7, asm.RFP, stackEthernet, asm.Byte),
		asm.JNE.Imm(asm.R7, protocolTCP, "pass"),
		asm.Mov.Reg(asm.R9, asm.R8),
		asm.Add.Imm(asm.R9, offsetTCPFlags),
	}
	program = append(program, loadAt("pass", asm.R9, int32(stackEthernet), 1)...)
	program = append(program,
		asm.LoadMem(asm.R7, asm.RFP, stackEthernet, asm.Byte),
		asm.And.Imm(asm.R7, flagFIN|flagSYN|flagRST|flagACK),
		asm.JNE.Imm(asm.R7, flagSYN, "pass"),
	)
	program = append(program, loadAt("pass", asm.R8, int32(ports), 4)...)

	// Whoever has the connection or listens for it gets it. Where a last one from the
	// same port is in TIME_WAIT the kernel ends that, and has the client try again.
	program = append(program, lookup(size)...)
	program = append(program,
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.JNE.Imm(asm.R7, 0, "release"),
	)
	// The listener. No connection has port 0, so nothing else is found.
	address := l.Addr().AsSlice()
	for i := int16(0); i < size; i += 2 {
		program = append(program, asm.StoreImm(asm.RFP, stackTuple+size+i, int64(network16(uint16(address[i])<<8|uint16(address[i+1]))), asm.Half))
	}
	program = append(program, asm.StoreImm(asm.RFP, ports, 0, asm.Half), asm.StoreImm(asm.RFP, ports+2, int64(network16(l.Port())), asm.Half))
	program = append(program, lookup(size)...)
	return append(program,
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Ja.Label("release"),
	)
}

// lookup finds the socket of the tuple, with addresses of size bytes.
func lookup(size int16) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, stackTuple),
		asm.Mov.Imm(asm.R3, int32(2*size+4)),
		asm.LoadImm(asm.R4, currentNetNS, asm.DWord),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkcLookupTcp.Call(),
	}
}
