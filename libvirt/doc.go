// Package libvirt runs machines as libvirt domains. It is the only package that
// sees libvirt.
//
// Domain turns a unikernel.Machine and the facts of a Host into a domain
// document, a pure function. Driver starts, watches and ends such domains:
//
//	           Create            Resume
//	(nothing) ───────▶ paused ◀─────────▶ running
//	    ▲                │      Pause        │
//	    │                │                   │ the guest powers off, reboots or
//	    │                │                   │ panics; QEMU ends or is killed
//	    │    Destroy     ▼      Destroy      ▼
//	    └───────────── ended ◀────────── Wait tells
//
// What the driver knows of a machine, whether it is paused or not, has phases.
// phase.go is the single list of what follows what:
//
//	starting ──seen──▶ running ──hinted──▶ told ──┐
//	                      │ │               │     │ QEMU died; or an
//	                      │ └─died─▶ dead ──┼─────┤ event or its status
//	                      │           │     │     │ says how it ended
//	              Destroy ▼           ▼     ▼     ▼
//	                  condemned ────────ended──▶ over ──▶ clearing ──▶ cleared
//	                                                └── Destroy ──┘ libvirt was told
//
// Domains are transient: started from their document, defined nowhere. They
// outlive the process that started them, with both URIs, so nothing is bound to
// a connection (no VIR_DOMAIN_START_AUTODESTROY, which an embedded driver does
// not have anyway); what a killed owner leaves is ended by name with CleanUp.
//
// # Where libvirt runs
//
// qemu:///embed?root=DIR is libvirt's driver inside this process. It needs no
// daemon and costs 5 MiB of memory (proportional set size: 7.9 MiB before Open,
// 12.5 after). libvirt starts it once a process and never ends it: a process
// can have one, at one root, and the root must not be open in another process.
// Open writes its configuration; Close removes everything below the root once
// no machine is left. The process becomes the reaper of orphans
// (PR_SET_CHILD_SUBREAPER), and so QEMU's parent: its status is known and it is
// gone the moment it ends. The driver reaps exactly the processes it knows.
//
// libvirt looks up the user it was built for (Debian: libvirt-qemu) before it
// reads any configuration. The package libvirt-daemon-system makes it; without
// that user neither the embedded driver nor the daemon starts.
//
// qemu:///system is libvirtd. When it goes away, machines run on and Wait waits
// on: the driver connects again for a minute by itself, then with each call,
// and a pidfd tells when a QEMU ends meanwhile. The guest's own power-off is
// seen when the daemon is back, since QEMU then waits for it. Destroy works
// without it.
//
// # Files
//
// Each machine's QEMU runs as a user and in a group of its own, see lease, with
// libvirt's seccomp filter. Once it has started it has the disks that its machine
// writes and no other file, see package confine.
// libvirt relabels nothing: the root's disk is one inode in many containers,
// and its owner must not change with each start and end. Create sees to it that
// QEMU can read and write what it must (see grant): a disk that is written
// is its user's until the machine has ended, one that is read only has an entry for
// that user in its access list until QEMU has opened it, see package acl. The
// caller sees to the directories: each one above a kernel, an initrd, a disk or
// an embedded root must be searchable for that user (mode 0711 is enough:
// /run/uni, /run/uni/<key>, /var/lib/uni, /var/lib/uni/containers/<key>, and
// where a backing file is). Sockets are made by libvirt as root and handed to
// QEMU; virtiofsd runs as root.
//
// # Disks that come later
//
// A machine with unikernel.Machine.LUNs has a virtio-scsi controller: the one kind
// of disk that every machine type takes while it runs, microvm's virtio-mmio
// included, and with no port reserved for each. Attach and Detach keep its disks as
// Create keeps others: the same document but for its place, the same access to the
// file, which the record of the machine's user names before the file is its own.
// Neither needs the guest, so a paused machine will do. The guest is told by an
// event of the controller, and one that reads none finds out when it looks.
//
// # Time
//
// Create takes 60 to 90 ms on two cores of a 2.4 GHz AMD EPYC with libvirt 9.0
// and QEMU 7.2: 10 in libvirt before it starts QEMU, 12 until its child runs
// QEMU, 25–30 until QEMU answers its monitor and 16 until the first command is
// answered (raw QEMU takes the same), 15 for the other 13 commands. Three things
// keep it there. Asked the usual way, libvirt wants to know some 400 processor
// flags one by one, which is 230 ms and on a busy host 500: see step monitor.
// The cache of what QEMU can do is shared by all embedded drivers and copied
// into each one's root: without it the first start probes QEMU for 4 to 12 s,
// see Warm. And libvirtd's or libvirt's own user must be able to open /dev/kvm
// if it is there: else libvirt 9.0 takes the cache for outdated at every look,
// a minute for each start; see qemuConf and Driver.warnOfKVMDevice. Open takes
// 65 ms with the cache.
//
// Attach takes 5 ms and Detach 70 to 100: QEMU frees a device 50 ms after it is
// asked to. A disk costs QEMU 75 KiB, and up to 0.3 MiB once it was read.
//
// Destroy takes 5 to 15 ms: it kills QEMU, and libvirt, which looks every
// 200 ms, is told afterwards. Wait answers with the event of the guest's end,
// before QEMU has ended.
//
// # Machine types
//
// microvm, q35 and pc all boot the same kernel by PVH, with disks, interfaces,
// ports, virtiofs and pvpanic, and end with the guest's power-off, reboot and
// panic. microvm needs qboot.rom; q35 and pc use it instead of SeaBIOS where it
// is installed, and have their devices on the root bus: libvirt's own choice on q35, a root port
// a device, costs half a second of boot.
package libvirt
