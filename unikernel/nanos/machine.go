package nanos

import (
	"fmt"

	"containerd-shim-uni/unikernel"
)

// Values of Config.Machine beside QEMU's own names of types.
const (
	// MachineAuto is microvm for machines of comfortMiB and more with up to
	// microVolumes volumes, else q35.
	MachineAuto = "auto"

	machineMicroVM = "microvm"
	machineQ35     = "q35"
)

// Sizes of machines in MiB, measured with QEMU 7.2 on both types.
const (
	// MinMemoryMiB is the least RAM that a machine boots and runs a small program
	// with: 12 measured with a static C program, 15 with one in Go.
	MinMemoryMiB = 16
	// thriftyMiB: up to 66 MiB the kernel takes 11 for itself, beyond it rounds
	// its own heaps up to pages of 2 MiB and takes 71 (Nanos' src/config.h,
	// LOW_MEMORY_THRESHOLD).
	thriftyMiB = 64
	// comfortMiB is where a program has more memory beside the generous kernel
	// than beside the thrifty one: 57 MiB against 53. Only from there on are there
	// the 2 MiB in a row that a network device of microvm wants, whose queues have
	// 1024 entries and not 256.
	comfortMiB = 128
)

// microVolumes is how many volumes microvm has room for beside the root, random
// numbers and two network interfaces: QEMU gives it 8 devices with a single
// interrupt controller, which is what the kernel knows.
const microVolumes = 4

// board is what ends a machine. With debug_exit the kernel writes a status to
// port 0x501 and then pulls the keyboard controller's reset line (QEMU_HALT of
// Nanos' src/kernel/kvm_platform.h). There is a panic device at that port: bits
// 0 and 1 tell it of a panic, and one of both is set in the statuses of the
// kernel's own failures, 125 to 127, of which it leaves no record.
var board = unikernel.Board{PanicPort: 0x501, KeyboardReset: true, OneIOAPIC: true, Qboot: true}

// exitOptions have the kernel end its machine so.
var exitOptions = []unikernel.Option{{Name: "debug_exit", Value: "t"}}

// machine chooses the machine's type and size for what a container may use.
func machine(kind string, r unikernel.Resources) (string, unikernel.Resources, error) {
	least := MinMemoryMiB
	if kind == machineMicroVM {
		least = comfortMiB
	}
	switch {
	case r.VCPUs < 1:
		return "", r, fmt.Errorf("%w: %d virtual CPUs", unikernel.ErrInvalid, r.VCPUs)
	case r.MemoryMiB < least && kind == machineMicroVM:
		return "", r, fmt.Errorf("%w: the memory limit of %d MiB is too small for the %s guest on machine type %s, which needs %d MiB; types %q and %q need %d",
			unikernel.ErrInvalid, r.MemoryMiB, Name, kind, least, MachineAuto, machineQ35, MinMemoryMiB)
	case r.MemoryMiB < least:
		return "", r, fmt.Errorf("%w: the memory limit of %d MiB is too small for the %s guest, which needs %d MiB",
			unikernel.ErrInvalid, r.MemoryMiB, Name, least)
	}
	small := r.MemoryMiB < comfortMiB
	if small {
		r.MemoryMiB = min(r.MemoryMiB, thriftyMiB)
	}
	if kind == MachineAuto {
		kind = machineMicroVM
		if small {
			kind = machineQ35
		}
	}
	return kind, r, nil
}
