// Package nanos is the guest "nanos": a kernel that runs one program in its own
// address space and nothing else. The user installs the kernel; nothing of it
// is part of this project.
//
// The kernel takes its orders from the root tuple of its disk (package
// builder/tfs) and has no control channel. What it offers instead:
//
//	output    the serial console, where it also writes itself: see filter
//	SIGTERM   the ACPI power button. A program that does not end within 30 s
//	          is ended by the kernel, with status 0. A signal waits until the kernel
//	          has booted
//	SIGKILL   the end of the machine
//	status    for any status but 0 the kernel leaves a record on the disk
//	          before it ends its machine, see exitStatus. Death by a signal is
//	          the bare number of the signal
//	the end   the kernel resets the machine, which nobody starts again. When it
//	          fails itself it tells a panic device before, see board
//
// It powers no microvm off by ACPI, hence the reset; and as it always resets
// without a record when a program ends with 0, a kernel that dies by a triple
// fault looks like one.
//
// There are no processes, users, terminals, standard input, devices and mounts.
// What a specification asks of these is refused where a program would notice,
// with ErrNotImplemented and the name of the guest that can. Users, capabilities,
// seccomp and limits other than those of the machine are left out silently: they
// divide what is in one kernel, and here is one program alone in a machine.
// Mounts of proc, sysfs, devpts, mqueue, cgroup and tmpfs are left out too: the
// kernel has its own /proc, /sys and /dev, and the root can be written to.
// Bind mounts of small regular files become copies; others are refused.
//
// An interface gets one IPv4 and one IPv6 address, an MTU and a gateway of
// IPv4, which need not be in its network. Routes that these cannot express are
// refused: see network.go.
package nanos
