package libvirt

// Host is what the domain document depends on besides the machine. Open finds
// these facts out once a driver; tests write them down.
type Host struct {
	// KVM says that the processor's virtualization works, see package kvm.
	// Without it QEMU emulates the processor.
	KVM bool
	// Emulator is the path of qemu-system-x86_64; empty leaves it to libvirt.
	Emulator string
	// Libvirt is its version as it counts: major*1,000,000 + minor*1,000 + release.
	Libvirt uint32
	// UID and GID are the user and group QEMU runs as, which Create sets for each
	// machine. Zero is root.
	UID, GID int
	// Firmware is the path of qboot.rom, without which microvm does not boot and
	// q35 and pc take longer, with the SeaBIOS that is QEMU's own choice.
	Firmware string
	// CmdlineFile is the path of a file in which QEMU finds a machine's command line,
	// see Driver.hide; empty if QEMU's own has it.
	CmdlineFile string
	// VhostNet says that /dev/vhost-net can be used.
	VhostNet bool
}

// version returns libvirt's number for a version.
func version(major, minor, release uint32) uint32 {
	return major*1_000_000 + minor*1_000 + release
}
