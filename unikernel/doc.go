// Package unikernel is the vocabulary of the project: what a container asks
// for (App, Rootfs), the virtual machine that runs it (Machine, Disk, NIC,
// Channel, Share), how that machine ended (End), and the contract of a guest
// (Guest, Session, Process).
//
// A guest is what boots in the machine: package unikernel/linux is a minimal
// Linux kernel with our own PID 1, unikernel/nanos a kernel that runs one program
// from the container's files, unikernel/prebuilt a kernel that is one of these
// files. A guest plans from an App what must boot, without touching the host,
// and speaks to the booted machine over its control channel, or watches it. What
// it needs it says in data: what boots, an ordered list of disks, what must be
// found at boot. Nobody asks which guest it is.
//
// The package imports nothing else of this module; every other package imports
// this one and none of each other.
package unikernel
