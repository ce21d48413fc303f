package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"containerd-shim-uni/unikernel"

	"github.com/cilium/ebpf/asm"
)

// Verdicts of a direct-action classifier, linux/pkt_cls.h.
const (
	actionDrop     = 2 // TC_ACT_SHOT
	actionRedirect = 7 // TC_ACT_REDIRECT, what bpf_redirect returns
)

// Offsets in bytes from the start of an Ethernet frame: RFC 894, 791, 826,
// 8200, 4861.
const (
	offsetSourceMAC  = 6
	offsetEtherType  = 12
	offsetIPv4Source = 14 + 12
	offsetARPSender  = 14 + 8 // MAC, then IPv4 address
	offsetIPv6Next   = 14 + 6
	offsetIPv6Source = 14 + 8
	offsetICMPv6     = 14 + 40
	offsetNDTarget   = offsetICMPv6 + 8

	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protocolICMPv6         = 58
	typeNeighborAdvertised = 136
)

// Where the programs keep what they read, relative to the frame pointer.
const (
	stackEthernet = -16
	stackAddress  = -32
)

// redirect is the program that sends every frame out of the link with the
// given index.
func redirect(index int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R1, int32(index)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
	}
}

// guard is the program that sends a frame out of the link with the given index
// when its sender is who the interface is, and drops it otherwise.
//
// Allowed are the interface's MAC with: IPv4 from its addresses; ARP whose
// sender is one of them (or 0.0.0.0, a probe: RFC 5227); IPv6 from its
// addresses, from the link-local address made of the MAC (RFC 4291 appendix A)
// or from :: (duplicate address detection), where a neighbour advertisement
// must be for such an address too. Other protocols are dropped.
func guard(index int, nic unikernel.Interface) (asm.Instructions, error) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("interface %s: %q is not an Ethernet address: %w", nic.Name, nic.MAC, unikernel.ErrInvalid)
	}
	v4 := []netip.Addr{}
	v6 := []netip.Addr{linkLocal(mac)}
	for _, p := range nic.Addresses {
		if p.Addr().Is4() {
			v4 = append(v4, p.Addr())
		} else {
			v6 = append(v6, p.Addr())
		}
	}

	program := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	program = append(program, load(0, stackEthernet, 14)...)
	program = append(program, requireBytes(stackEthernet+offsetSourceMAC, mac)...)
	program = append(program,
		asm.LoadMem(asm.R7, asm.RFP, stackEthernet+offsetEtherType, asm.Half),
		asm.JEq.Imm(asm.R7, network16(etherIPv4), "ipv4"),
		asm.JEq.Imm(asm.R7, network16(etherARP), "arp"),
		asm.JEq.Imm(asm.R7, network16(etherIPv6), "ipv6"),
		asm.Ja.Label("drop"),
	)

	program = append(program, at("ipv4", load(offsetIPv4Source, stackAddress, 4))...)
	program = append(program, oneOf("ipv4", stackAddress, v4, "pass", "drop")...)

	program = append(program, at("arp", load(offsetARPSender, stackAddress, 10))...)
	program = append(program, requireBytes(stackAddress, mac)...)
	program = append(program, oneOf("arp", stackAddress+6, append([]netip.Addr{netip.IPv4Unspecified()}, v4...), "pass", "drop")...)

	program = append(program, at("ipv6", load(offsetIPv6Source, stackAddress, 16))...)
	program = append(program, oneOf("ipv6", stackAddress, append([]netip.Addr{netip.IPv6Unspecified()}, v6...), "advertised", "drop")...)
	program = append(program, at("advertised", load(offsetIPv6Next, stackEthernet, 1))...)
	program = append(program,
		asm.LoadMem(asm.R7, asm.RFP, stackEthernet, asm.Byte),
		asm.JNE.Imm(asm.R7, protocolICMPv6, "pass"),
	)
	program = append(program, load(offsetICMPv6, stackEthernet, 1)...)
	program = append(program,
		asm.LoadMem(asm.R7, asm.RFP, stackEthernet, asm.Byte),
		asm.JNE.Imm(asm.R7, typeNeighborAdvertised, "pass"),
	)
	program = append(program, load(offsetNDTarget, stackAddress, 16)...)
	program = append(program, oneOf("target", stackAddress, v6, "pass", "drop")...)

	program = append(program, at("pass", redirect(index))...)
	return append(program, asm.Mov.Imm(asm.R0, actionDrop).WithSymbol("drop"), asm.Return()), nil
}

// load copies size bytes at offset of the frame to the stack; a frame that is
// too short is dropped.
func load(offset int32, stack int32, size int32) asm.Instructions {
	return loadOr("drop", offset, stack, size)
}

// loadOr is load that goes to a label with a frame that is too short.
func loadOr(short string, offset int32, stack int32, size int32) asm.Instructions {
	return append(asm.Instructions{asm.Mov.Imm(asm.R2, offset)}, loadAt(short, asm.R2, stack, size)...)
}

// loadAt is loadOr with the offset in a register.
func loadAt(short string, offset asm.Register, stack int32, size int32) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, offset),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, stack),
		asm.Mov.Imm(asm.R4, size),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, short),
	}
}

// requireBytes drops the frame unless want stands at the place on the stack.
// It compares two bytes at a time: the places are only that well aligned.
func requireBytes(stack int16, want []byte) asm.Instructions {
	var out asm.Instructions
	for i := 0; i < len(want); i += 2 {
		out = append(out,
			asm.LoadMem(asm.R7, asm.RFP, stack+int16(i), asm.Half),
			asm.JNE.Imm(asm.R7, int32(binary.NativeEndian.Uint16(want[i:])), "drop"),
		)
	}
	return out
}

// oneOf goes to yes when the address on the stack is one of the candidates,
// and to no otherwise. name makes its labels unique.
func oneOf(name string, stack int16, candidates []netip.Addr, yes, no string) asm.Instructions {
	var out asm.Instructions
	label := func(i int) string { return fmt.Sprintf("%s-%d", name, i) }
	for i, candidate := range candidates {
		raw := candidate.AsSlice()
		first := len(out)
		for j := 0; j < len(raw); j += 2 {
			out = append(out,
				asm.LoadMem(asm.R7, asm.RFP, stack+int16(j), asm.Half),
				asm.JNE.Imm(asm.R7, int32(binary.NativeEndian.Uint16(raw[j:])), label(i+1)),
			)
		}
		out[first] = out[first].WithSymbol(label(i))
		out = append(out, asm.Ja.Label(yes))
	}
	return append(out, asm.Ja.Label(no).WithSymbol(label(len(candidates))))
}

// at gives the first instruction a label.
func at(label string, instructions asm.Instructions) asm.Instructions {
	instructions[0] = instructions[0].WithSymbol(label)
	return instructions
}

// network16 is a 16-bit value as it reads from a frame on this machine.
func network16(v uint16) int32 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return int32(binary.NativeEndian.Uint16(b[:]))
}

// linkLocal is the IPv6 link-local address made of a MAC.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}
