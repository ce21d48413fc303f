// Package confine takes the host's files from a running process but for some.
//
// QEMU needs the host's files to start: its program, libraries, firmware and
// modules, devices; and libvirt writes files for it. Once it has answered its
// monitor it has all of that open or in memory, and the guest has not executed one
// instruction. That is when To changes its root: libvirt gave it a mount namespace,
// and pivot_root(2) moves all processes of one. So nothing has to be known of what
// QEMU needs to start, and the start is not longer by it:
//
//	the host's mounts ── libvirt: unshare ──▶ a copy, with a /dev of QEMU's
//	                                              │ To: pivot_root, umount
//	              /var/lib/uni/…/disk (mount) ◀───┘
//	                        ▲ Reveal, Conceal: disks that come and go
//
// So whatever a machine is to open by name must be open when To is called, or be
// one of its files: a machine that is made from a saved one (QEMU -incoming) has read
// its state and mapped its memory by then, and is confined before its CPUs go on.
// What QEMU only reads is open for good and no file of it, see libvirt.written.
//
// It is for Linux 5.2 (open_tree and move_mount) and newer.
package confine
