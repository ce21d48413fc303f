// Package qemufiles finds what distributions install beside QEMU in different
// places and versions: the firmware that machines boot with, and the daemon
// that shares directories. It reads files only, needs no libvirt, and is what
// both the driver and "uni check" go by, so that they agree.
package qemufiles
