package libvirt

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirtxml"

	"containerd-shim-uni/unikernel"
)

// First and last slot of bus 0 that devices get. Slot 1 is pc's bridge to ISA,
// slots from 0x1a are taken by chips of q35.
const (
	firstSlot  = 0x02
	lastSlot   = 0x19
	devicesMax = lastSlot - firstSlot + 1 // also microvm's number of transports
	// fewDevices is that number where microvm has one interrupt controller
	// (microvm_machine_init of QEMU's hw/i386/microvm.c).
	fewDevices = 8
)

// room is how many virtio devices the machine can have.
func (b *build) room() int {
	if b.m.Type == machineMicroVM && b.m.OneIOAPIC {
		return fewDevices
	}
	return devicesMax
}

// place returns the next virtio device's address: a transport of its own on
// microvm, else a slot of the root bus. An explicit slot keeps libvirt from
// adding a PCIe root port for each device, which costs boot time.
func (b *build) place() (*libvirtxml.DomainAddress, error) {
	slot := firstSlot + b.placed
	if room := b.room(); int(b.placed) >= room {
		advice := ""
		if room < devicesMax {
			advice = fmt.Sprintf(", or machine type %s, which has room for %d", machineQ35, devicesMax)
		}
		return nil, fmt.Errorf("machine type %s has room for %d devices, and %d disks and %d network interfaces are more: use fewer mounts or networks%s",
			b.m.Type, room, len(b.m.Disks), len(b.m.NICs), advice)
	}
	b.placed++
	if b.m.Type == machineMicroVM {
		return &libvirtxml.DomainAddress{VirtioMMIO: &libvirtxml.DomainAddressVirtioMMIO{}}, nil
	}
	var zero uint
	return &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{
		Domain: &zero, Bus: &zero, Slot: &slot, Function: &zero}}, nil
}

// modern is the model of a device where the guest wants modern virtio alone, else "":
// that of a device behind virtio-mmio has no name of its own, see board.
func (b *build) modern() string {
	if b.m.Virtio == unikernel.VirtioModern && b.m.Type != machineMicroVM {
		return "virtio-non-transitional"
	}
	return ""
}

// controllers lists the few there are; "none" keeps libvirt's defaults out.
func controllers(b *build) error {
	var index uint
	b.dom.Devices.Controllers = []libvirtxml.DomainController{{Type: "usb", Index: &index, Model: "none"}}
	if b.m.Type == machineQ35 {
		b.dom.Devices.Controllers = append(b.dom.Devices.Controllers,
			libvirtxml.DomainController{Type: "pci", Index: &index, Model: "pcie-root"})
	}
	if b.m.Type == machinePC {
		b.dom.Devices.Controllers = append(b.dom.Devices.Controllers,
			libvirtxml.DomainController{Type: "pci", Index: &index, Model: "pci-root"})
	}
	if !b.m.LUNs {
		return nil
	}
	addr, err := b.place()
	if err != nil {
		return err
	}
	queues := uint(1)
	b.dom.Devices.Controllers = append(b.dom.Devices.Controllers, libvirtxml.DomainController{
		Type: "scsi", Index: &index, Model: "virtio-scsi", Address: addr,
		Driver: &libvirtxml.DomainControllerDriver{Queues: &queues},
	})
	return nil
}

func disks(b *build) error {
	seen := map[string]bool{}
	for i, d := range b.m.Disks {
		if err := checkDisk(d); err != nil {
			return err
		}
		if seen[d.Serial] {
			return fmt.Errorf("two disks have the serial %q", d.Serial)
		}
		seen[d.Serial] = true
		addr, err := b.place()
		if err != nil {
			return err
		}
		x := disk(d)
		x.Model = b.modern()
		x.Target, x.Address = &libvirtxml.DomainDiskTarget{Dev: diskName("vd", i), Bus: "virtio"}, addr
		b.dom.Devices.Disks = append(b.dom.Devices.Disks, x)
	}
	return nil
}

func checkDisk(d unikernel.Disk) error {
	switch {
	case !filepath.IsAbs(d.Path):
		return fmt.Errorf("the path %q of disk %q is not absolute", d.Path, d.Serial)
	case d.Format != "raw" && d.Format != "qcow2":
		return fmt.Errorf("format %q of disk %q; known are raw and qcow2", d.Format, d.Serial)
	case d.Serial == "" || len(d.Serial) > serialMax:
		return fmt.Errorf("disk serial %q must have 1 to %d bytes", d.Serial, serialMax)
	case strings.Trim(d.Serial, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "":
		return fmt.Errorf("disk serial %q holds something else than letters, digits, dots, dashes and underscores", d.Serial)
	}
	return nil
}

// lun returns a disk at a unit of the controller for those that come later. It is
// a function of its arguments alone; a disk or unit that cannot be is
// unikernel.ErrInvalid.
func lun(d unikernel.Disk, unit int) (*libvirtxml.DomainDisk, error) {
	if err := checkDisk(d); err != nil {
		return nil, fmt.Errorf("%w: %w", unikernel.ErrInvalid, err)
	}
	if unit < 0 || unit >= unikernel.MaxLUNs {
		return nil, fmt.Errorf("%w: unit %d of disk %q; there are %d", unikernel.ErrInvalid, unit, d.Serial, unikernel.MaxLUNs)
	}
	var zero uint
	at := uint(unit)
	x := disk(d)
	x.Target = &libvirtxml.DomainDiskTarget{Dev: diskName("sd", unit), Bus: "scsi"}
	x.Address = &libvirtxml.DomainAddress{Drive: &libvirtxml.DomainAddressDrive{
		Controller: &zero, Bus: &zero, Target: &zero, Unit: &at}}
	return &x, nil
}

// disk returns a disk without its place in the machine. discard='unmap' lets a guest's fstrim and
// deletions give space back to the host. A write that fails, because the host's
// disk is full, fails in the guest: QEMU's default is to stop the machine until
// an operator comes.
func disk(d unikernel.Disk) libvirtxml.DomainDisk {
	x := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: d.Format, ErrorPolicy: "report"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: d.Path}},
		Serial: d.Serial,
	}
	if d.Block {
		x.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: d.Path}}
	}
	if d.ReadOnly {
		x.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
		x.Shareable = &libvirtxml.DomainDiskShareable{}
	} else {
		x.Driver.Discard = "unmap"
	}
	if d.Ephemeral {
		x.Driver.Cache = "unsafe"
	}
	return x
}

// diskName returns, of the prefix vd, vda for 0, vdz for 25, vdaa for 26, as
// libvirt and Linux count.
func diskName(prefix string, index int) string {
	name := ""
	for n := index; n >= 0; n = n/26 - 1 {
		name = string(rune('a'+n%26)) + name
	}
	return prefix + name
}

func share(b *build) error {
	s := b.m.Share
	if s == nil {
		return nil
	}
	if !filepath.IsAbs(s.Source) || s.Tag == "" {
		return fmt.Errorf("a share needs an absolute directory and a tag, not %q and %q", s.Source, s.Tag)
	}
	addr, err := b.place()
	if err != nil {
		return err
	}
	b.dom.Devices.Filesystems = []libvirtxml.DomainFilesystem{{
		Driver:  &libvirtxml.DomainFilesystemDriver{Type: "virtiofs"},
		Source:  &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Socket: shareSocket(s)}},
		Target:  &libvirtxml.DomainFilesystemTarget{Dir: s.Tag},
		Address: addr,
	}}
	return nil
}

func interfaces(b *build) error {
	for _, n := range b.m.NICs {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return fmt.Errorf("%q is no address of an Ethernet interface", n.MAC)
		}
		if n.Tap == "" || n.MTU < 0 {
			return fmt.Errorf("tap %q with an MTU of %d bytes", n.Tap, n.MTU)
		}
		addr, err := b.place()
		if err != nil {
			return err
		}
		x := libvirtxml.DomainInterface{
			MAC:     &libvirtxml.DomainInterfaceMAC{Address: mac.String()},
			Source:  &libvirtxml.DomainInterfaceSource{Ethernet: &libvirtxml.DomainInterfaceSourceEthernet{}},
			Target:  &libvirtxml.DomainInterfaceTarget{Dev: n.Tap, Managed: "no"},
			Model:   &libvirtxml.DomainInterfaceModel{Type: cmp.Or(b.modern(), "virtio")},
			Driver:  b.netDriver(n),
			Address: addr,
		}
		if x.Driver.Queues > 0 && b.m.Type == machineMicroVM {
			b.dropVectors(&x)
		}
		if n.MTU > 0 {
			x.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(n.MTU)}
		}
		b.dom.Devices.Interfaces = append(b.dom.Devices.Interfaces, x)
	}
	return nil
}

// netDriver moves packets in the host's kernel where a real processor and
// vhost are there, and in QEMU else.
func (b *build) netDriver(n unikernel.NIC) *libvirtxml.DomainInterfaceDriver {
	d := &libvirtxml.DomainInterfaceDriver{Name: "qemu"}
	if b.h.KVM && b.h.VhostNet {
		d.Name = "vhost"
	}
	if n.Queues > 1 {
		d.Queues = uint(n.Queues)
	}
	return d
}

// dropVectors takes from the device the interrupt vectors that libvirt gives an
// interface with several queues: they are PCI's, virtio-mmio has none.
func (b *build) dropVectors(x *libvirtxml.DomainInterface) {
	x.Alias = &libvirtxml.DomainAlias{Name: "ua-" + x.Target.Dev}
	if b.dom.QEMUOverride == nil {
		b.dom.QEMUOverride = &libvirtxml.DomainQEMUOverride{}
	}
	b.dom.QEMUOverride.Devices = append(b.dom.QEMUOverride.Devices, libvirtxml.DomainQEMUOverrideDevice{
		Alias: x.Alias.Name,
		Frontend: libvirtxml.DomainQEMUOverrideFrontend{Properties: []libvirtxml.DomainQEMUOverrideProperty{
			{Name: "vectors", Type: "remove"}}},
	})
}

func channels(b *build) error {
	if len(b.m.Channels) == 0 {
		return nil
	}
	addr, err := b.place()
	if err != nil {
		return err
	}
	var index uint
	ports := uint(len(b.m.Channels) + 1) // port 0 is reserved for a console
	b.dom.Devices.Controllers = append(b.dom.Devices.Controllers, libvirtxml.DomainController{
		Type: "virtio-serial", Index: &index, Address: addr,
		VirtIOSerial: &libvirtxml.DomainControllerVirtIOSerial{Ports: &ports},
	})
	for i, c := range b.m.Channels {
		if c.Name == "" {
			return errors.New("a channel has no name")
		}
		source, err := listen(c.Socket)
		if err != nil {
			return err
		}
		port := uint(i + 1)
		b.dom.Devices.Channels = append(b.dom.Devices.Channels, libvirtxml.DomainChannel{
			Source: source,
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: c.Name}},
			Address: &libvirtxml.DomainAddress{VirtioSerial: &libvirtxml.DomainAddressVirtioSerial{
				Controller: &index, Bus: &index, Port: &port}},
		})
	}
	return nil
}

func console(b *build) error {
	if b.m.Console == "" {
		return nil
	}
	source, err := listen(b.m.Console)
	if err != nil {
		return err
	}
	var port uint
	b.dom.Devices.Serials = []libvirtxml.DomainSerial{{
		Source: source,
		Target: &libvirtxml.DomainSerialTarget{Type: "isa-serial", Port: &port},
	}}
	return nil
}

// socketMax is the longest path of a Unix socket in bytes (unix(7): 108 with
// the closing zero).
const socketMax = 107

func listen(path string) (*libvirtxml.DomainChardevSource, error) {
	if !filepath.IsAbs(path) || len(path) > socketMax {
		return nil, fmt.Errorf("socket %q must be an absolute path of at most %d bytes", path, socketMax)
	}
	return &libvirtxml.DomainChardevSource{
		UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: path}}, nil
}

// devices adds the rest: randomness, without which a guest's first programs
// wait for seconds, a way to report a panic, and a balloon only to give back
// what the guest freed.
func devices(b *build) error {
	b.dom.Devices.Emulator = b.h.Emulator
	if !b.m.NoRandom {
		addr, err := b.place()
		if err != nil {
			return err
		}
		b.dom.Devices.RNGs = []libvirtxml.DomainRNG{{
			Model:   cmp.Or(b.modern(), "virtio"),
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
			Address: addr,
		}}
	}
	b.dom.Devices.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "none"}
	if b.m.ReportsFree {
		addr, err := b.place()
		if err != nil {
			return err
		}
		b.dom.Devices.MemBalloon = &libvirtxml.DomainMemBalloon{
			Model: "virtio", AutoDeflate: "off", FreePageReporting: "on", Address: addr}
	}
	panics := libvirtxml.DomainPanic{Model: "isa"}
	if port := uint(b.m.PanicPort); port != 0 {
		panics.Address = &libvirtxml.DomainAddress{ISA: &libvirtxml.DomainAddressISA{IOBase: &port}}
	}
	b.dom.Devices.Panics = []libvirtxml.DomainPanic{panics}
	return nil
}
