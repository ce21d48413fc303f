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
// It powers no microvm off by ACPI, hence the reset. What cannot be told apart: as
// the kernel resets without a record when a program ends with 0, one that dies by
// a triple fault looks like it. And one that cannot read its root knows no orders
// yet, and does without the reset: it says so on the console, then q35 powers off
// with status 0 and microvm stands still.
//
// There are no processes, users, terminals, standard input, devices and mounts.
// What a specification asks of these is refused where a program would notice,
// with ErrNotImplemented and the name of the guest that can.
//
// Users, capabilities, limits other than those of the machine, sysctls and seccomp
// filters divide what is in one kernel, and guard that kernel's other users. Here
// is one program alone in a machine, and the machine is what guards the host, so
// none of them is refused: a container that asks for a user, capabilities, limits
// or sysctls other than clients ask for of their own accord is told of it in the
// shim's log (Plan.Without). Seccomp, AppArmor, SELinux, no_new_privileges and
// masked paths go without saying. What a container asks for to guard its own
// files, a read-only root, is done.
//
// Mounts of proc, sysfs, devpts, mqueue and cgroup are left out too: the kernel
// has its own /proc, /sys and /dev.
//
// An interface gets one IPv4 and one IPv6 address, an MTU and a gateway of
// IPv4, which need not be in its network. Routes that these cannot express are
// refused: see network.go.
//
// # Mounts
//
// Nothing is shared with the host. A bind mount is a copy, made when the
// container is created:
//
//	regular files    lie in the root, 1 MiB in all, and can be written to there
//	larger files     a link to a file on a volume
//	directories      a volume: a disk of its own, read-only where the mount is
//	writable ones    refused, or a copy whose changes are lost: Config.CopyWritable
//
// The kernel mounts volumes on directories of its root and nowhere else, so a
// mount in a mount is refused. A tmpfs is an empty directory of the root, which
// is as ephemeral; it is an empty volume where the image has files, or the root
// is read-only. The one at /run, which is in every specification, shows what the
// image has there. Those below /dev are directories; shared memory is the
// machine's own.
package nanos
