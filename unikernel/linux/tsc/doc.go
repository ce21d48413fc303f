// Package tsc knows the rate of the host's time stamp counter. An emulated
// processor counts with it (QEMU's cpu_get_ticks reads the host's), and a kernel
// that runs on one should not have to measure it.
package tsc
