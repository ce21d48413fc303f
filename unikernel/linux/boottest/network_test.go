package boottest

import (
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// advertisement is an Ethernet frame with a router's advertisement of a default
// route and of the prefix 2001:db8:bad::/64 for autonomous configuration
// (RFC 4861, 4.2 and 4.6.2).
func advertisement() []byte {
	mac := []byte{2, 0, 0, 0, 0, 0x99}
	source, all := netip.MustParseAddr("fe80::99").As16(), netip.MustParseAddr("ff02::1").As16()
	prefix := netip.MustParseAddr("2001:db8:bad::").As16()
	icmp := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	icmp = append(icmp, 1, 1)
	icmp = append(icmp, mac...)
	icmp = append(icmp, 3, 4, 64, 0xc0, 0, 0, 0x1c, 0x20, 0, 0, 0x1c, 0x20, 0, 0, 0, 0)
	icmp = append(icmp, prefix[:]...)
	sum := uint32(len(icmp)) + 58
	for _, b := range [][]byte{source[:], all[:], icmp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))

	frame := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac...)
	frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255)
	frame = append(frame, source[:]...)
	frame = append(frame, all[:]...)
	return append(frame, icmp...)
}

// TestRouterAdvertisement: an address or a route that a router advertises is
// none of the machine's, for the host would drop what comes from there.
func TestRouterAdvertisement(t *testing.T) {
	needQEMU(t)
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	link, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: ours, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	a := app("sleep", "1000")
	a.Network = unikernel.Network{Interfaces: []unikernel.Interface{{Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1500,
		Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8::2/64")}}}}
	m := boot(t, "microvm", image(t), a,
		"-netdev", "dgram,id=n0,local.type=unix,local.path="+theirs+",remote.type=unix,remote.path="+ours,
		"-device", "virtio-net-device,netdev=n0,mac=02:00:00:00:00:01")
	p := m.run(a, unikernel.Stdio{})
	received := func() string { return m.sh(`grep Icmp6InRouterAdvertisements /proc/net/snmp6 | tr -dc 0-9`).out }
	before := received()
	for received() == before { // until it has one
		if _, err := link.WriteToUnix(advertisement(), &net.UnixAddr{Name: theirs, Net: "unixgram"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.sh("cat /proc/net/if_inet6").out; strings.Contains(got, "20010db80bad") || !strings.Contains(got, "20010db8000000000000000000000002") {
		t.Errorf("addresses: %s", got)
	}
	// A default route by way of somebody.
	if r := m.sh(`grep -E '^0{32} 00 0{32} 00 fe80' /proc/net/ipv6_route`); r.status != 1 {
		t.Errorf("routes: %s", r.out)
	}
	m.end(p)
}
