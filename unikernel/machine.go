package unikernel

import "time"

// Machine describes one virtual machine completely. Package libvirt turns it
// into a domain; nothing else needs to be known to do so.
type Machine struct {
	// Name is the domain's name, see DomainName.
	Name string
	// Title is shown to an operator, for example "default/c1".
	Title string
	// Type is QEMU's machine type: "microvm", "q35" or "pc".
	Type string
	Resources
	Board
	// Kernel and Initrd are files of the host; Initrd may be empty. Without a Kernel the
	// first disk boots, by the BIOS of Board.BIOS, and there is no Cmdline.
	Kernel, Initrd string
	// OwnKernel says that these two are the machine's own, as its disks are:
	// the driver lets QEMU's user read them.
	OwnKernel bool
	// Saved is a file with the state of a machine from which this one goes on
	// instead of booting; empty for one that boots. Both have the same shape: they
	// differ in name, title, files and taps at most.
	Saved string
	// Cmdline is the kernel command line, in words that are joined by a space.
	// One that holds spaces quotes them as its kernel wants it; no word holds
	// another white space or control character, or is empty.
	Cmdline []string
	// Private says that Cmdline holds what only root may read: a driver keeps it out
	// of what everybody can, or says why it does not.
	Private bool
	// Disks appear in the guest in this order.
	Disks []Disk
	// LUNs says that disks may come and go while the machine runs: it has a SCSI
	// controller for them.
	LUNs bool
	// NICs appear in the guest in this order.
	NICs []NIC
	// Channels are virtio-serial ports.
	Channels []Channel
	// Console is the path of the Unix socket that QEMU listens on for the
	// first serial port; empty means the machine has none.
	Console string
	// Share is a directory of the host shared into the guest, if any.
	Share *Share
	// NetNS is the path of the container's network namespace. A driver that
	// can starts the machine's processes in it; the taps are in there then.
	NetNS string
}

// Board is what a guest's kernel expects of a machine beside processors, RAM and
// virtio devices. The zero value suits a kernel that does all by ACPI.
type Board struct {
	// PanicPort is the I/O port of the device that is told of a panic (QEMU's
	// pvpanic); 0 is the one it has by default.
	PanicPort uint16
	// KeyboardReset says that the kernel ends the machine by the reset line of
	// the keyboard controller.
	KeyboardReset bool
	// OneIOAPIC says that the kernel knows the first I/O APIC only.
	OneIOAPIC bool
	// Qboot says that q35 and pc boot the kernel with qboot, not with SeaBIOS.
	Qboot bool
	// BIOS says the opposite: the guest leaves devices as SeaBIOS sets them up.
	// With neither the driver takes what boots soonest.
	BIOS bool
	// ReportsFree says that the kernel tells which pages it freed (free page
	// reporting of a virtio balloon): the host then has them back.
	ReportsFree bool
	// HPET says that q35 and pc have the timer of that name, without which some
	// kernels have no clock where KVM gives them none.
	HPET bool
	// NoMWAIT says that the kernel takes MONITOR and MWAIT for working where the
	// processor says it has them, which of an emulated one is not all true.
	NoMWAIT bool
	// NoRandom leaves out the virtio source of randomness.
	NoRandom bool
	// Virtio is which version of virtio the devices speak.
	Virtio Virtio
	// Halts says that a guest which halts all processors with interrupts off has ended,
	// and the machine with it.
	Halts bool
	// DebugExit says that the guest may end the machine with a status, by QEMU's
	// isa-debug-exit device at its default I/O port, 0x501.
	DebugExit bool
}

// Virtio is a version of virtio.
type Virtio int

const (
	// VirtioAny is what drivers of both kinds know, on q35 and pc; modern on microvm.
	VirtioAny Virtio = iota
	// VirtioModern is virtio 1 and nothing before it.
	VirtioModern
	// VirtioLegacy is virtio before version 1; on q35 and pc as VirtioAny.
	VirtioLegacy
)

// MaxLUNs is how many disks can come to a running machine: its units are those
// below. Linux shows units from 256 on with 16384 added.
const MaxLUNs = 256

// Disk is one block device of a machine.
type Disk struct {
	// Path is the disk's file on the host, or of a Block one a node of its device, which
	// is the machine's own.
	Path  string
	Block bool
	// Format is "raw" or "qcow2".
	Format string
	// Serial names the disk in the guest, in at most 20 bytes: the serial of a
	// virtio-blk device or, of a LUN, page 0x80 of its vital product data.
	Serial string
	// ReadOnly disks may be shared by several machines.
	ReadOnly bool
	// Ephemeral says the contents need not survive the host: QEMU then skips
	// every flush (cache='unsafe').
	Ephemeral bool
}

// NIC is one network interface of a machine, backed by a tap device.
type NIC struct {
	// Tap is the name of an existing tap device, in the namespace in which the
	// machine's processes start.
	Tap string
	// MAC is the guest's address, "52:54:00:…".
	MAC string
	// MTU in bytes; 0 leaves the guest's default.
	MTU int
	// Queues is how many queues the tap was made for; with more than one it
	// has the flag IFF_MULTI_QUEUE. 0 is one.
	Queues int
}

// Channel is one virtio-serial port, found in the guest by Name and on the
// host as a Unix socket that QEMU listens on.
type Channel struct {
	Name, Socket string
}

// Share is a directory of the host in the guest, by virtiofs.
type Share struct {
	// Source is the directory on the host, in the mount namespace at the path
	// MountNS; empty for that of this process.
	Source, MountNS string
	// Tag is how the guest finds it.
	Tag string
	// Submounts says that the guest has to tell the file systems below Source
	// apart, which are mounts there.
	Submounts bool
}

// EndReason says why a machine ended.
type EndReason int

// How a machine can end.
const (
	// EndUnknown: the machine is gone and nothing tells why.
	EndUnknown EndReason = iota
	// EndShutdown: the guest powered off or rebooted.
	EndShutdown
	// EndDestroyed: Destroy was called.
	EndDestroyed
	// EndFailed: QEMU ended by itself: killed, out of memory, crashed.
	EndFailed
	// EndPanicked: the guest's kernel reported a panic.
	EndPanicked
	// EndExited: the guest ended the machine with a status, see
	// Board.DebugExit.
	EndExited
	// EndHalted: the guest stopped for good without a word, see Board.Halts.
	EndHalted
)

// String returns the reason as used in logs and errors.
func (r EndReason) String() string {
	switch r {
	case EndShutdown:
		return "guest shut down"
	case EndDestroyed:
		return "destroyed"
	case EndFailed:
		return "hypervisor failed"
	case EndPanicked:
		return "guest panicked"
	case EndExited:
		return "guest exited"
	case EndHalted:
		return "guest halted"
	default:
		return "unknown"
	}
}

// End is how and when a machine ended.
type End struct {
	Reason EndReason
	At     time.Time
	// Status is 0–127 for EndExited.
	Status uint32
	// Detail is for a person: libvirt's or QEMU's own words, may be empty.
	Detail string
}

// Pids are a machine's processes on the host.
type Pids struct {
	// VM is QEMU's process id.
	VM int
	// Helpers are further processes the machine needs, such as virtiofsd.
	Helpers []int
}
