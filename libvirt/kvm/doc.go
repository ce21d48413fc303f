// Package kvm tells whether this host's KVM can really run a guest.
//
// That /dev/kvm exists says little: inside some virtual machines it belongs to
// a KVM without hardware support (PVM, for one) that interprets a guest
// kernel's instructions one by one in software, too slowly to be of use, and
// fails at those it does not know; a stock kernel dies there at its first
// cmpxchg16b. So Probe runs a virtual CPU through what a booting kernel does:
// from 32-bit protected mode, where PVH boot begins, through the switch to
// 64-bit mode with paging, a cmpxchg16b, an SSE instruction and four million
// turns of a loop in ring 0, within a processor time that only hardware can keep;
// how busy the host is does not matter.
//
// The numbers and structures are those of linux/kvm.h for x86-64.
package kvm
