package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needRoot skips a test that makes network namespaces or loads programs.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") == "" {
		t.Skip("needs root: set UNI_QEMU_TESTS=1")
	}
}

var (
	podIP  = netip.MustParseAddr("192.0.2.2")
	peerIP = netip.MustParseAddr("192.0.2.1")
	podIP6 = netip.MustParseAddr("2001:db8::2")
)

func TestGuard(t *testing.T) {
	needRoot(t)
	mac, _ := net.ParseMAC(podMAC)
	other, _ := net.ParseMAC("02:00:00:00:00:01")
	program, err := guard(1, unikernel.Interface{Name: "eth0", MAC: podMAC, Addresses: []netip.Prefix{netip.PrefixFrom(podIP, 24), netip.PrefixFrom(podIP6, 64)}})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: program})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer loaded.Close()

	advertise := func(target netip.Addr) []byte {
		frame := ipv6(mac, linkLocal(mac))
		frame[offsetIPv6Next] = protocolICMPv6
		frame[offsetICMPv6] = typeNeighborAdvertised
		copy(frame[offsetNDTarget:], target.AsSlice())
		return frame
	}
	tests := []struct {
		name  string
		frame []byte
		want  uint32
	}{
		{"own IPv4", ipv4(mac, podIP), actionRedirect},
		{"own ARP", arp(mac, mac, podIP), actionRedirect},
		{"ARP probe", arp(mac, mac, netip.IPv4Unspecified()), actionRedirect},
		{"own IPv6", ipv6(mac, podIP6), actionRedirect},
		{"link-local IPv6", ipv6(mac, linkLocal(mac)), actionRedirect},
		{"duplicate address detection", ipv6(mac, netip.IPv6Unspecified()), actionRedirect},
		{"advertises itself", advertise(podIP6), actionRedirect},
		{"foreign MAC", ipv4(other, podIP), actionDrop},
		{"foreign IPv4", ipv4(mac, peerIP), actionDrop},
		{"ARP with a foreign sender", arp(mac, mac, peerIP), actionDrop},
		{"ARP with a foreign MAC inside", arp(mac, other, podIP), actionDrop},
		{"foreign IPv6", ipv6(mac, netip.MustParseAddr("2001:db8::1")), actionDrop},
		{"advertises another", advertise(netip.MustParseAddr("2001:db8::1")), actionDrop},
		{"VLAN tag", ethernet(mac, 0x8100), actionDrop},
		{"too short for its type", ethernet(mac, etherARP)[:30], actionDrop},
	}
	for _, test := range tests {
		if got, _, err := loaded.Test(test.frame); err != nil || got != test.want {
			t.Errorf("%s: verdict %d (%v), want %d", test.name, got, err, test.want)
		}
	}
}

// TestLink plays the guest on a real tap: what it asks reaches the peer behind
// the namespace's interface, the answer comes back, and a forged one does not.
func TestLink(t *testing.T) {
	needRoot(t)
	for _, inside := range []bool{true, false} {
		name := map[bool]string{true: "tap made inside", false: "tap moved in"}[inside]
		t.Run(name, func(t *testing.T) {
			path, mac := newPod(t)
			var linker Linker
			found, err := linker.Look(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(found.Interfaces) != 1 || found.Interfaces[0].Name != "net1" || found.Interfaces[0].MTU != 1400 {
				t.Fatalf("found %+v", found)
			}
			key := unikernel.Key("test", t.Name())
			where := ""
			if inside {
				where = path
			}
			nics, err := linker.Tap(key, where, found, 1)
			if err != nil {
				t.Fatal(err)
			}
			var tap *os.File
			openTap := func() (err error) { tap, err = attach(nics[0].Tap); return err }
			if inside {
				err = Within(path, openTap)
			} else {
				err = openTap()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer tap.Close()
			if err := linker.Join(key, path, found); err != nil {
				t.Fatal(err)
			}
			if _, err := linker.Look(path); !errors.Is(err, unikernel.ErrNotImplemented) {
				t.Errorf("a second machine in the namespace: %v, want ErrNotImplemented", err)
			}

			// A forged question first: had it passed, its answer would come first.
			forged := netip.MustParseAddr("192.0.2.77")
			for _, sender := range []netip.Addr{forged, podIP} {
				question := arp(mac, mac, sender)
				copy(question[38:], peerIP.AsSlice())
				if _, err := tap.Write(question); err != nil {
					t.Fatal(err)
				}
			}
			if got := awaitReply(t, tap); got != podIP {
				t.Errorf("the peer answered %v, want %v", got, podIP)
			}

			if err := linker.Remove(key, path); err != nil {
				t.Fatal(err)
			}
			again, err := linker.Look(path)
			if err != nil || len(again.Interfaces) != 1 {
				t.Errorf("after Remove: %+v, %v", again, err)
			}
			if err := linker.Remove(key, path); err != nil {
				t.Errorf("second Remove: %v", err)
			}
		})
	}
}

func TestVanishedNamespace(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "netns")
	if err := NewNamespace(path); err != nil {
		t.Fatal(err)
	}
	if err := RemoveNamespace(path); err != nil {
		t.Fatal(err)
	}
	if err := RemoveNamespace(path); err != nil {
		t.Errorf("second RemoveNamespace: %v", err)
	}
	if _, err := (Linker{}).Look(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Look: %v, want ErrNotExist", err)
	}
	if err := (Linker{}).Remove(unikernel.Key("test", "gone"), path); err != nil {
		t.Errorf("Remove: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Linker{}).Remove(unikernel.Key("test", "gone"), empty); err != nil {
		t.Errorf("Remove with an unmounted namespace file: %v", err)
	}
}

// newPod makes a network namespace whose net1 is joined to a peer in a second
// one, and returns its path and net1's address.
func newPod(t *testing.T) (string, net.HardwareAddr) {
	t.Helper()
	dir := t.TempDir()
	pod, peer := filepath.Join(dir, "pod"), filepath.Join(dir, "peer")
	for _, path := range []string{pod, peer} {
		if err := NewNamespace(path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := RemoveNamespace(path); err != nil {
				t.Error(err)
			}
		})
	}
	mac, _ := net.ParseMAC(podMAC)
	err := Within(pod, func() error {
		ns, err := netns.GetFromPath(peer)
		if err != nil {
			return err
		}
		defer ns.Close()
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "net1", MTU: 1400, HardwareAddr: mac},
			PeerName:  "net1", PeerNamespace: netlink.NsFd(ns),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, ip := range map[string]netip.Addr{pod: podIP, peer: peerIP} {
		err := inNamespace(path, func(h *netlink.Handle) error {
			link, err := h.LinkByName("net1")
			if err != nil {
				return err
			}
			a := address(netip.PrefixFrom(ip, 24).String())
			return errors.Join(h.AddrAdd(link, &a), h.LinkSetUp(link))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return pod, mac
}

// attach opens a tap as QEMU does, without the virtio header.
func attach(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// awaitReply reads frames until an ARP reply comes and returns whom it is for.
func awaitReply(t *testing.T, tap *os.File) netip.Addr {
	t.Helper()
	if err := tap.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2048)
	for {
		n, err := tap.Read(frame)
		if err != nil {
			t.Fatalf("no ARP reply: %v", err)
		}
		if n >= 42 && bytes.Equal(frame[12:14], []byte{8, 6}) && frame[21] == 2 {
			to, _ := netip.AddrFromSlice(frame[38:42])
			return to
		}
	}
}

func ethernet(source net.HardwareAddr, kind uint16) []byte {
	frame := make([]byte, 96)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(frame[offsetSourceMAC:], source)
	binary.BigEndian.PutUint16(frame[offsetEtherType:], kind)
	return frame
}

func ipv4(mac net.HardwareAddr, source netip.Addr) []byte {
	frame := ethernet(mac, etherIPv4)
	frame[14] = 0x45
	copy(frame[offsetIPv4Source:], source.AsSlice())
	return frame
}

func ipv6(mac net.HardwareAddr, source netip.Addr) []byte {
	frame := ethernet(mac, etherIPv6)
	frame[14] = 0x60
	copy(frame[offsetIPv6Source:], source.AsSlice())
	return frame
}

func arp(mac, sender net.HardwareAddr, ip netip.Addr) []byte {
	frame := ethernet(mac, etherARP)
	copy(frame[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(frame[offsetARPSender:], sender)
	copy(frame[offsetARPSender+6:], ip.AsSlice())
	return frame
}

// TestManyAtOnce joins 200 machines to 200 namespaces at once, with taps that
// are made in the host's namespace, and removes them at once.
func TestManyAtOnce(t *testing.T) {
	needRoot(t)
	const many = 200
	dir := t.TempDir()
	began := time.Now()
	parallel(t, many, func(i int) error { return startOne(filepath.Join(dir, strconv.Itoa(i)), strconv.Itoa(i)) })
	t.Logf("%d started in %v", many, time.Since(began))
	noHostTaps(t, many)
	began = time.Now()
	parallel(t, many, func(i int) error {
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := (Linker{}).Remove(unikernel.Key("many", strconv.Itoa(i)), path); err != nil {
			return err
		}
		left, err := (Linker{}).Look(path) // an error if a tap or a program is left
		if err != nil || len(left.Interfaces) != 1 {
			return fmt.Errorf("after Remove: %+v, %w", left, err)
		}
		return RemoveNamespace(path)
	})
	t.Logf("%d removed in %v", many, time.Since(began))
	noHostTaps(t, many)
}

// startOne is what a start does about its network.
func startOne(path, id string) error {
	key := unikernel.Key("many", id)
	if err := NewNamespace(path); err != nil {
		return err
	}
	err := Within(path, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "peer"})
	})
	if err != nil {
		return err
	}
	err = inNamespace(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		a := address("192.0.2.2/24")
		return errors.Join(h.AddrAdd(link, &a), h.LinkSetUp(link))
	})
	if err != nil {
		return err
	}
	var linker Linker
	found, err := linker.Look(path)
	if err != nil {
		return err
	}
	nics, err := linker.Tap(key, "", found, 1)
	if err != nil {
		return err
	}
	tap, err := attach(nics[0].Tap) // as QEMU holds it
	if err != nil {
		return err
	}
	defer tap.Close()
	return linker.Join(key, path, found)
}

func parallel(t *testing.T, n int, do func(int) error) {
	t.Helper()
	errs := make(chan error)
	for i := range n {
		go func() { errs <- do(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// noHostTaps fails the test when a tap of TestManyAtOnce is in the host's
// namespace.
func noHostTaps(t *testing.T, many int) {
	t.Helper()
	for i := range many {
		name := tapName(unikernel.Key("many", strconv.Itoa(i)), 0)
		if _, err := netlink.LinkByName(name); !errors.As(err, new(netlink.LinkNotFoundError)) {
			t.Errorf("tap %s is in the host's namespace: %v", name, err)
		}
	}
}
