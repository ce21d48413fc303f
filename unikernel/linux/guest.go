package linux

import (
	"strconv"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/tsc"
)

// Name is the guest's name in configuration and annotations.
const Name = "linux"

// MinMemoryMiB is the least RAM, in MiB, that a machine of a type boots and
// runs a small program with: what was measured, and some more. With QEMU 7.2
// and 10.0 that is 28 on q35; 34 on pc, where less than that hangs; 36 on
// microvm, whose virtio-mmio announces queues of 1024 entries that the kernel's
// console driver fills with 9 MiB of buffers.
func MinMemoryMiB(machine string) int {
	if machine == "q35" {
		return 32
	}
	return 40
}

const (
	controlPort = "uni.ctl" // name of the virtio-serial port, known to PID 1
	shareTag    = "uni"     // virtiofs tag of the bind mounts
)

// Config is what the guest needs to know of the host.
type Config struct {
	// Kernel is the path of vmlinux, Initrd that of initrd.img.
	Kernel, Initrd string
	// Machine is the machine type; empty means "microvm".
	Machine string
	// ExtraCmdline is appended to the kernel's command line.
	ExtraCmdline []string
	// Emulated says that no KVM is used.
	Emulated bool
	// TSCKHz is the rate of the host's time stamp counter in kHz, which is what
	// an emulated processor counts with. 0 means that New finds it out, a
	// negative number that there is none to rely on.
	TSCKHz int
}

// Guest is the linux guest.
type Guest struct{ cfg Config }

var _ unikernel.PodGuest = (*Guest)(nil)

// New returns the guest for a host.
func New(cfg Config) *Guest {
	if cfg.Machine == "" {
		cfg.Machine = "microvm"
	}
	if cfg.Emulated && cfg.TSCKHz == 0 {
		cfg.TSCKHz = tsc.KHz()
	}
	return &Guest{cfg: cfg}
}

// Name implements unikernel.Guest.
func (g *Guest) Name() string { return Name }

// Capacity implements unikernel.Guest: a container of a pod has two disks, and the
// pod's own none.
func (g *Guest) Capacity() int { return unikernel.MaxLUNs/2 + 1 }

// lapicHz is how often QEMU's and KVM's local APIC timer counts in a second
// before its divider: it counts nanoseconds (apic_get_current_count of QEMU's
// hw/intc/apic.c, APIC_BUS_CYCLE_NS of KVM).
const lapicHz = 1_000_000_000

// cmdline is the kernel's command line.
func (g *Guest) cmdline() []string {
	args := []string{
		"console=ttyS0", "quiet",
		// A panic ends the machine at once, by the way all machine types
		// have: the triple fault.
		"panic=-1", "reboot=t",
		// A container expects to reserve address space beyond its memory limit,
		// as on a host; Go's runtime reserves 32 MiB at once.
		"sysctl.vm.overcommit_memory=1",
		// virtio-mmio announces queues of 1024 entries; requests for all of them
		// would take a megabyte for each disk.
		"virtio_blk.queue_depth=128",
		// Nothing is measured at boot, see kernel/machine.c.
		"uni.lapic_hz=" + strconv.Itoa(lapicHz),
	}
	if g.cfg.Machine == "microvm" {
		args = append(args, "pci=off")
	}
	if g.cfg.Emulated {
		args = append(args, "no_timer_check")
		if g.cfg.TSCKHz > 0 {
			// An emulated processor does not say that its counter is one to
			// rely on. It is the host's.
			args = append(args, "tsc_early_khz="+strconv.Itoa(g.cfg.TSCKHz), "tsc=reliable")
		}
	}
	return append(args, g.cfg.ExtraCmdline...)
}
