package libvirt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"libvirt.org/go/libvirtxml"

	"containerd-shim-uni/libvirt/qemufiles"
	"containerd-shim-uni/unikernel"
)

// Machine types that Domain knows.
const (
	machineMicroVM = "microvm"
	machineQ35     = "q35"
	machinePC      = "pc"
)

const (
	// cmdlineMax is the longest command line an x86 kernel takes, in bytes
	// (COMMAND_LINE_SIZE, its closing zero included).
	cmdlineMax = 2048
	// serialMax is the length of a virtio-blk serial, in bytes
	// (VIRTIO_BLK_ID_BYTES of the virtio specification, 5.2.6).
	serialMax = 20
	// tbCacheMiB bounds QEMU's cache of translated code under emulation. QEMU
	// itself would take up to 1024 MiB; a Linux boot fills about 20.
	tbCacheMiB = 96
)

// build is the document under construction.
type build struct {
	m   unikernel.Machine
	h   Host
	dom *libvirtxml.Domain
	// placed counts the virtio devices that have an address.
	placed uint
}

// steps fill the document, in the order in which the machine is described.
var steps = []struct {
	name string
	do   func(*build) error
}{
	{"identity", identity},
	{"resources", resources},
	{"processor", processor},
	{"boot", boot},
	{"lifecycle", lifecycle},
	{"features", features},
	{"clock", clock},
	{"controllers", controllers},
	{"disks", disks},
	{"share", share},
	{"interfaces", interfaces},
	{"channels", channels},
	{"console", console},
	{"devices", devices},
	{"security", security},
	{"monitor", monitor},
	{"board", board},
}

// Domain returns the libvirt domain of a machine. It is a function of its
// arguments alone. A machine that cannot be described gives
// unikernel.ErrInvalid.
func Domain(m unikernel.Machine, h Host) (*libvirtxml.Domain, error) {
	b := &build{m: m, h: h, dom: &libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}}
	for _, s := range steps {
		if err := s.do(b); err != nil {
			return nil, fmt.Errorf("domain %s: %s: %w: %w", m.Name, s.name, unikernel.ErrInvalid, err)
		}
	}
	return b.dom, nil
}

func identity(b *build) error {
	switch {
	case b.m.Name == "":
		return errors.New("the machine has no name")
	case strings.ContainsAny(b.m.Name, "/\n,"):
		return fmt.Errorf("name %q holds a slash, a comma or a line end", b.m.Name)
	case strings.Contains(b.m.Title, "\n"):
		return errors.New("the title holds a line end")
	}
	b.dom.Name = b.m.Name
	b.dom.Title = b.m.Title
	b.dom.UUID = UUID(b.m.Name)
	b.dom.Type = "qemu"
	if b.h.KVM {
		b.dom.Type = "kvm"
	}
	return nil
}

// UUID returns the identity of the domain with this name: the start of the
// name's SHA-256 in the form of RFC 9562, version 8.
func UUID(name string) string {
	s := sha256.Sum256([]byte("containerd-shim-uni domain " + name))
	s[6] = s[6]&0x0f | 0x80
	s[8] = s[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[0:4], s[4:6], s[6:8], s[8:10], s[10:16])
}

func resources(b *build) error {
	if b.m.MemoryMiB <= 0 || b.m.VCPUs <= 0 {
		return fmt.Errorf("%d MiB and %d virtual CPUs; both must be positive", b.m.MemoryMiB, b.m.VCPUs)
	}
	b.dom.Memory = &libvirtxml.DomainMemory{Value: uint(b.m.MemoryMiB), Unit: "MiB", DumpCore: "off"}
	b.dom.VCPU = &libvirtxml.DomainVCPU{Placement: "static", Value: uint(b.m.VCPUs)}
	if b.m.Share != nil { // virtiofsd maps the guest's memory
		b.dom.MemoryBacking = &libvirtxml.DomainMemoryBacking{
			MemorySource: &libvirtxml.DomainMemorySource{Type: "memfd"},
			MemoryAccess: &libvirtxml.DomainMemoryAccess{Mode: "shared"},
		}
	}
	return nil
}

// processor gives the guest all the processor can do. Under KVM that is all but
// an invariant TSC, with which QEMU saves no machine ("State blocked by
// non-migratable CPU device"). The guest's clock is then KVM's on every host,
// which stands still while the machine is paused or saved; the TSC goes on. An
// emulated processor loses five-level page tables: each level costs every
// emulated page walk.
func processor(b *build) error {
	if b.h.KVM {
		b.dom.CPU = &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none", Migratable: "on"}
		return nil
	}
	b.dom.CPU = &libvirtxml.DomainCPU{Mode: "maximum", Check: "none", Migratable: "off",
		Features: []libvirtxml.DomainCPUFeature{{Policy: "disable", Name: "la57"}}}
	if b.m.NoMWAIT {
		// It says that MWAIT can wake by interrupts that are off, and raises #GP when
		// asked to (QEMU 7.2).
		b.dom.CPU.Features = append(b.dom.CPU.Features, libvirtxml.DomainCPUFeature{Policy: "disable", Name: "monitor"})
	}
	return nil
}

func boot(b *build) error {
	switch b.m.Type {
	case machineMicroVM, machineQ35, machinePC:
	default:
		return fmt.Errorf("machine type %q; known are %s, %s and %s", b.m.Type, machineMicroVM, machineQ35, machinePC)
	}
	alone := b.m.Kernel == ""
	switch {
	case alone && (!b.m.BIOS || b.m.Type == machineMicroVM || len(b.m.Disks) == 0):
		return fmt.Errorf("machine type %s has no kernel, and no disk from which a BIOS boots: only %s and %s have one", b.m.Type, machineQ35, machinePC)
	case alone && (b.m.Initrd != "" || len(b.m.Cmdline) > 0):
		return errors.New("a disk that boots by itself takes no command line and no initial RAM disk")
	}
	for _, a := range b.m.Cmdline {
		if a == "" || !utf8.ValidString(a) || strings.ContainsFunc(a, unicode.IsControl) {
			return fmt.Errorf("kernel argument %q is empty or holds a control character", a)
		}
	}
	line := strings.Join(b.m.Cmdline, " ")
	if len(line) >= cmdlineMax {
		return fmt.Errorf("the kernel command line has %d bytes, the kernel takes %d", len(line), cmdlineMax-1)
	}
	b.dom.OS = &libvirtxml.DomainOS{
		Type:    &libvirtxml.DomainOSType{Arch: "x86_64", Machine: b.m.Type, Type: "hvm"},
		Kernel:  b.m.Kernel,
		Initrd:  b.m.Initrd,
		Cmdline: line,
	}
	if alone {
		b.dom.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	needed := b.m.Type == machineMicroVM || b.m.Qboot
	switch {
	case b.m.BIOS && b.m.Type != machineMicroVM: // QEMU's own choice is SeaBIOS
	case b.h.Firmware != "":
		b.dom.OS.Loader = &libvirtxml.DomainLoader{Path: b.h.Firmware, Readonly: "yes", Type: "rom"}
	case needed:
		return fmt.Errorf("machine type %s boots this kernel with QEMU's qboot.rom only, which is not there: %s", b.m.Type, qemufiles.QbootAdvice)
	}
	return nil
}

// lifecycle makes every end of the guest the end of the domain. libvirt then
// tells QEMU to take a reset for a shutdown, so a triple fault ends it too.
func lifecycle(b *build) error {
	b.dom.OnPoweroff, b.dom.OnReboot, b.dom.OnCrash = "destroy", "destroy", "destroy"
	return nil
}

func features(b *build) error {
	b.dom.Features = &libvirtxml.DomainFeatureList{
		ACPI: &libvirtxml.DomainFeature{},
		APIC: &libvirtxml.DomainFeatureAPIC{},
	}
	if b.m.Type != machineMicroVM { // microvm has no VMware port to switch off
		b.dom.Features.VMPort = &libvirtxml.DomainFeatureState{State: "off"}
	}
	if !b.h.KVM {
		b.dom.Features.TCG = &libvirtxml.DomainFeatureTCG{
			TBCache: &libvirtxml.DomainFeatureTCGTBCache{Unit: "MiB", Size: tbCacheMiB}}
	}
	return nil
}

func clock(b *build) error {
	b.dom.Clock = &libvirtxml.DomainClock{Offset: "utc"}
	if b.m.Type != machineMicroVM && !b.m.HPET { // microvm has no HPET to switch off
		b.dom.Clock.Timer = []libvirtxml.DomainTimer{{Name: "hpet", Present: "no"}}
	}
	return nil
}

// security runs QEMU as the given user. Nothing is relabelled: the root's disk
// is shared by many machines and its owner must not change under them.
func security(b *build) error {
	b.dom.SecLabel = []libvirtxml.DomainSecLabel{{
		Type: "static", Model: "dac", Relabel: "no",
		Label: "+" + strconv.Itoa(b.h.UID) + ":+" + strconv.Itoa(b.h.GID),
	}}
	return nil
}

// monitor takes one capability of QEMU from libvirt's view. With it libvirt
// asks after the start for each of some 400 processor flags by a command of
// its own (about 230 ms), only to show them in the live document.
func monitor(b *build) error {
	b.dom.QEMUCapabilities = &libvirtxml.DomainQEMUCapabilities{
		Del: []libvirtxml.DomainQEMUCapabilitiesEntry{{Name: "cpu-unavailable-features"}},
	}
	return nil
}

// board sets what libvirt has no element for. On microvm that is virtio 1.0
// registers, without which the guest sees only legacy devices, unless it wants these, and what of a
// PC's board the guest needs, all of which the other types have.
func board(b *build) error {
	var args []string
	if b.h.CmdlineFile != "" {
		args = append(args, "-readconfig", b.h.CmdlineFile)
		b.dom.OS.Cmdline = ""
	}
	if b.m.Type == machineMicroVM {
		args = append(args, "-global", "virtio-mmio.force-legacy="+strconv.FormatBool(b.m.Virtio == unikernel.VirtioLegacy))
		if b.m.OneIOAPIC {
			args = append(args, "-machine", "ioapic2=off") // added to libvirt's own
		}
		if b.m.KeyboardReset {
			args = append(args, "-device", "i8042")
		}
	}
	if b.m.DebugExit {
		// A write to the device ends QEMU 7.2 at once. Later ones ask for a
		// shutdown, after which libvirt's -no-shutdown would keep the process,
		// and libvirt end it without the status: see onLifecycle.
		args = append(args, "-device", "isa-debug-exit", "-action", "shutdown=poweroff")
	}
	if b.m.Saved != "" {
		args = append(args, "-incoming", "defer")
	}
	if len(args) == 0 {
		return nil
	}
	b.dom.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{}
	for _, a := range args {
		b.dom.QEMUCommandline.Args = append(b.dom.QEMUCommandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
	}
	return nil
}
