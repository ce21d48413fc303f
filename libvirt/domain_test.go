package libvirt

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"containerd-shim-uni/unikernel"
)

var update = flag.Bool("update", false, "write the golden documents anew")

// machine is the smallest machine, of the given type.
func machine(kind string) unikernel.Machine {
	return unikernel.Machine{
		Name: "uni-default--c1", Title: "default/c1", Type: kind,
		Resources: unikernel.Resources{MemoryMiB: 256, VCPUs: 1},
		Kernel:    "/usr/lib/uni/vmlinux",
		Cmdline:   []string{"console=ttyS0", "quiet"},
	}
}

// full adds everything a machine can have.
func full(m unikernel.Machine) unikernel.Machine {
	m.VCPUs = 2
	m.Initrd = "/usr/lib/uni/initrd.img"
	m.Console = "/run/uni/k/console.sock"
	m.Channels = []unikernel.Channel{{Name: "uni.ctl", Socket: "/run/uni/k/ctl.sock"}}
	m.Disks = []unikernel.Disk{
		{Path: "/var/lib/uni/containers/k/root.erofs", Format: "raw", Serial: "root", ReadOnly: true},
		{Path: "/var/lib/uni/containers/k/writable.qcow2", Format: "qcow2", Serial: "writable", Ephemeral: true},
		{Path: "/srv/data.raw", Format: "raw", Serial: "data"},
	}
	m.NICs = []unikernel.NIC{
		{Tap: "uni0123456789", MAC: "52:54:00:12:34:56", MTU: 1450, Queues: 2},
		{Tap: "uni9876543210", MAC: "52:54:00:12:34:57"},
	}
	m.Share = &unikernel.Share{Source: "/run/uni/k/share", Tag: "uni.share"}
	m.ReportsFree = true
	return m
}

// pod is a machine whose disks come while it runs.
func pod(m unikernel.Machine) unikernel.Machine {
	m = full(m)
	m.Disks, m.LUNs = nil, true
	return m
}

// legacy expects all that a board can have.
func legacy(m unikernel.Machine) unikernel.Machine {
	m.Board = unikernel.Board{PanicPort: 0x501, KeyboardReset: true, OneIOAPIC: true, Qboot: true}
	return m
}

// prebuilt is a machine for a kernel that somebody else made for a PC.
func prebuilt(m unikernel.Machine) unikernel.Machine {
	m.Board = unikernel.Board{BIOS: true, DebugExit: true, HPET: true, NoMWAIT: true}
	m.Cmdline = []string{`"two words" <&>`}
	return m
}

// modern is full without randomness, for a kernel that knows virtio 1 alone; old for one
// that knows nothing of it.
func modern(m unikernel.Machine) unikernel.Machine {
	m = full(m)
	m.Board = unikernel.Board{Virtio: unikernel.VirtioModern, NoRandom: true}
	return m
}

// diskAlone is a machine whose disk boots by its BIOS.
func diskAlone(m unikernel.Machine) unikernel.Machine {
	m = prebuilt(full(m))
	m.Kernel, m.Initrd, m.Cmdline = "", "", nil
	return m
}

func old(m unikernel.Machine) unikernel.Machine {
	m.Virtio = unikernel.VirtioLegacy
	return m
}

var (
	emulated = Host{Libvirt: version(9, 0, 0), UID: 64055, GID: 107,
		Firmware: "/usr/share/qemu/qboot.rom"}
	accelerated = Host{KVM: true, Emulator: "/usr/bin/qemu-system-x86_64", VhostNet: true,
		Libvirt: version(11, 3, 0), Firmware: "/usr/share/qemu/qboot.rom"}
)

func TestDomainGolden(t *testing.T) {
	tests := []struct {
		name string
		m    unikernel.Machine
		h    Host
	}{
		{"microvm-least-tcg", machine("microvm"), emulated},
		{"microvm-full-tcg", full(machine("microvm")), emulated},
		{"microvm-full-kvm", full(machine("microvm")), accelerated},
		{"microvm-legacy-tcg", legacy(machine("microvm")), emulated},
		{"q35-legacy-tcg", legacy(machine("q35")), emulated},
		{"microvm-prebuilt-tcg", prebuilt(machine("microvm")), emulated},
		{"pc-prebuilt-tcg", prebuilt(machine("pc")), emulated},
		{"pc-modern-kvm", modern(machine("pc")), accelerated},
		{"pc-disk-tcg", diskAlone(machine("pc")), emulated},
		{"microvm-old-tcg", old(machine("microvm")), emulated},
		{"q35-least-kvm", machine("q35"), accelerated},
		{"q35-full-tcg", full(machine("q35")), emulated},
		{"pc-least-tcg", machine("pc"), emulated},
		{"microvm-pod-tcg", pod(machine("microvm")), emulated},
		{"q35-pod-kvm", pod(machine("q35")), accelerated},
		{"pc-pod-tcg", pod(machine("pc")), emulated},
		{"pc-full-kvm", full(machine("pc")), accelerated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dom, err := Domain(tt.m, tt.h)
			if err != nil {
				t.Fatal(err)
			}
			got, err := dom.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name, got)
			var back libvirtxml.Domain
			if err := back.Unmarshal(got); err != nil {
				t.Errorf("the document does not parse: %v", err)
			}
		})
	}
}

// golden compares a document with the one that is written down.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".xml")
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got+"\n" != string(want) {
		t.Errorf("document differs from %s (go test -update writes it anew):\n%s", file, got)
	}
}

func TestLUNGolden(t *testing.T) {
	for name, d := range map[string]unikernel.Disk{
		"lun-image":     {Path: "/var/lib/uni/containers/k/root.erofs", Format: "raw", Serial: "root-0123456789ab", ReadOnly: true},
		"lun-layer":     {Path: "/var/lib/uni/containers/k/writable.img", Format: "raw", Serial: "writable-0123456789"},
		"lun-device":    {Path: "/var/lib/uni/containers/k/device-2", Block: true, Format: "raw", Serial: "0123456789abcdefg-2", ReadOnly: true},
		"lun-ephemeral": {Path: "/var/lib/uni/containers/k/boot.qcow2", Format: "qcow2", Serial: "boot", Ephemeral: true},
	} {
		doc, err := lun(d, 26)
		if err != nil {
			t.Fatal(err)
		}
		got, err := doc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, got)
	}
}

// TestLUNIsADisk: beside its place there is nothing that a disk at boot has not.
func TestLUNIsADisk(t *testing.T) {
	m := full(machine("q35"))
	dom, err := Domain(m, emulated)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range m.Disks {
		x, err := lun(d, 0)
		if err != nil {
			t.Fatal(err)
		}
		x.Target, x.Address = dom.Devices.Disks[i].Target, dom.Devices.Disks[i].Address
		if !reflect.DeepEqual(*x, dom.Devices.Disks[i]) {
			t.Errorf("a LUN is %+v, a disk at boot %+v", x, dom.Devices.Disks[i])
		}
	}
}

func TestLUNRefuses(t *testing.T) {
	good := unikernel.Disk{Path: "/d", Format: "raw", Serial: "s"}
	for _, tt := range []struct {
		unit int
		edit func(*unikernel.Disk)
		want string
	}{
		{-1, func(*unikernel.Disk) {}, "unit -1"},
		{256, func(*unikernel.Disk) {}, "there are 256"},
		{0, func(d *unikernel.Disk) { d.Path = "d" }, "not absolute"},
		{0, func(d *unikernel.Disk) { d.Format = "vmdk" }, `"vmdk"`},
		{0, func(d *unikernel.Disk) { d.Serial = "" }, "20 bytes"},
		{0, func(d *unikernel.Disk) { d.Serial = strings.Repeat("s", 21) }, "20 bytes"},
		{0, func(d *unikernel.Disk) { d.Serial = "a,b" }, "letters"},
	} {
		d := good
		tt.edit(&d)
		if _, err := lun(d, tt.unit); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("unit %d of %+v: %v, want ErrInvalid with %q", tt.unit, d, err, tt.want)
		}
	}
	for _, unit := range []int{0, 255} {
		if _, err := lun(good, unit); err != nil {
			t.Error(err)
		}
	}
}

// microvm boots no kernel without qboot, and some kernels no machine type.
func TestDomainWithoutQboot(t *testing.T) {
	without := accelerated
	without.Firmware = ""
	tests := []struct {
		m      unikernel.Machine
		needed bool
	}{
		{machine("microvm"), true}, {prebuilt(machine("microvm")), true}, {legacy(machine("microvm")), true},
		{machine("q35"), false}, {legacy(machine("q35")), true},
		{machine("pc"), false}, {legacy(machine("pc")), true}, {prebuilt(machine("pc")), false},
	}
	for _, tt := range tests {
		_, err := Domain(tt.m, without)
		if tt.needed && (!errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "qemu-system-data")) || !tt.needed && err != nil {
			t.Errorf("%s, board %+v: %v; needed: %v", tt.m.Type, tt.m.Board, err, tt.needed)
		}
	}
}

// TestDomainRoom: a board with one interrupt controller has few transports, and
// the error says which machine type has more.
func TestDomainRoom(t *testing.T) {
	for n, fits := range map[int]bool{7: true, 8: false} { // and random numbers
		m := legacy(machine("microvm"))
		m.Disks, m.NICs, m.Channels = nil, nil, nil
		for i := range n {
			m.Disks = append(m.Disks, unikernel.Disk{Path: "/d", Format: "raw", Serial: diskName("vd", i)})
		}
		_, err := Domain(m, emulated)
		if fits != (err == nil) || !fits && !strings.Contains(err.Error(), "room for 8 devices") || !fits && !strings.Contains(err.Error(), "q35") {
			t.Errorf("%d disks: %v", n, err)
		}
	}
}

func TestDomainRefuses(t *testing.T) {
	tests := []struct {
		name string
		edit func(*unikernel.Machine)
		want string // part of the error's text
	}{
		{"no name", func(m *unikernel.Machine) { m.Name = "" }, "no name"},
		{"name with slash", func(m *unikernel.Machine) { m.Name = "a/b" }, "slash"},
		{"name with comma", func(m *unikernel.Machine) { m.Name = "a,b" }, "comma"},
		{"title of two lines", func(m *unikernel.Machine) { m.Title = "a\nb" }, "title"},
		{"no memory", func(m *unikernel.Machine) { m.MemoryMiB = 0 }, "0 MiB"},
		{"no processor", func(m *unikernel.Machine) { m.VCPUs = -1 }, "-1 virtual"},
		{"unknown type", func(m *unikernel.Machine) { m.Type = "isapc" }, `"isapc"`},
		{"no kernel", func(m *unikernel.Machine) { m.Kernel = "" }, "no kernel"},
		{"empty argument", func(m *unikernel.Machine) { m.Cmdline = []string{"a", ""} }, `""`},
		{"argument of two lines", func(m *unikernel.Machine) { m.Cmdline = []string{"a\nb"} }, `"a\nb"`},
		{"argument not in UTF-8", func(m *unikernel.Machine) { m.Cmdline = []string{"a\xff"} }, `"a\xff"`},
		{"long command line", func(m *unikernel.Machine) { m.Cmdline = []string{strings.Repeat("x", 2048)} }, "2048 bytes"},
		{"relative disk", func(m *unikernel.Machine) { m.Disks[0].Path = "root" }, "not absolute"},
		{"unknown format", func(m *unikernel.Machine) { m.Disks[0].Format = "vmdk" }, `"vmdk"`},
		{"long serial", func(m *unikernel.Machine) { m.Disks[0].Serial = strings.Repeat("s", 21) }, "20 bytes"},
		{"odd serial", func(m *unikernel.Machine) { m.Disks[0].Serial = "a,b" }, "letters"},
		{"serial twice", func(m *unikernel.Machine) { m.Disks[1].Serial = m.Disks[0].Serial }, "two disks"},
		{"no MAC", func(m *unikernel.Machine) { m.NICs[0].MAC = "52:54" }, "52:54"},
		{"multicast MAC", func(m *unikernel.Machine) { m.NICs[0].MAC = "01:00:5e:00:00:01" }, "01:00"},
		{"no tap", func(m *unikernel.Machine) { m.NICs[0].Tap = "" }, "tap"},
		{"negative MTU", func(m *unikernel.Machine) { m.NICs[0].MTU = -1 }, "-1 bytes"},
		{"relative share", func(m *unikernel.Machine) { m.Share.Source = "x" }, "share"},
		{"share without tag", func(m *unikernel.Machine) { m.Share.Tag = "" }, "tag"},
		{"channel without name", func(m *unikernel.Machine) { m.Channels[0].Name = "" }, "channel"},
		{"long socket", func(m *unikernel.Machine) { m.Channels[0].Socket = "/" + strings.Repeat("s", 107) }, "107 bytes"},
		{"relative console", func(m *unikernel.Machine) { m.Console = "console.sock" }, "console.sock"},
		{"too many devices", func(m *unikernel.Machine) {
			for i := range 40 {
				m.NICs = append(m.NICs, unikernel.NIC{Tap: diskName("vd", i), MAC: "52:54:00:00:00:01"})
			}
		}, "room for 24 devices"},
	}
	for _, kind := range []string{"q35", "microvm"} {
		for _, tt := range tests {
			t.Run(kind+"/"+tt.name, func(t *testing.T) {
				m := full(machine(kind))
				tt.edit(&m)
				_, err := Domain(m, emulated)
				if !errors.Is(err, unikernel.ErrInvalid) {
					t.Fatalf("got %v, want ErrInvalid", err)
				}
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %q does not hold %q", err, tt.want)
				}
			})
		}
	}
}

func TestUUIDIsStable(t *testing.T) {
	const want = "09b9a5c1-7009-8052-a8d3-52870c95ae2a"
	if got := UUID("uni-default--c1"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDiskName(t *testing.T) {
	for index, want := range map[int]string{0: "vda", 1: "vdb", 25: "vdz", 26: "vdaa", 51: "vdaz", 52: "vdba", 701: "vdzz"} {
		if got := diskName("vd", index); got != want {
			t.Errorf("disk %d is %s, want %s", index, got, want)
		}
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
