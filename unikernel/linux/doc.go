// Package linux is the linux guest: a minimal Linux kernel (kernel/) whose
// PID 1 (cmd/uni-init) holds containers and speaks package wire with the host over
// a virtio-serial port.
//
// Plan says what must boot. Connect turns the host's end of the port into a
// Session, through which processes run:
//
//	Connect ──Hello──▶ Session ──Run──▶ Process ──Exit──▶ Shutdown ──▶ machine ends
//	                       └─────Exec──▶ Process …
//
// Run is a pod of one: it configures the machine, makes a container and starts its
// process. A pod of several does the same in three steps, and takes containers away
// again:
//
//	Session ──Configure──▶ Container ──Run──▶ Process ──Exit──▶ Remove
//	                            └──────Exec──▶ Process …
//
// Each container has a PID and a mount namespace, a cgroup with limits and counters
// of its own, and disks that are found by their serials, on virtio-blk or SCSI,
// whenever they come. Network, names and System V IPC are the machine's, as they are
// a pod's. After Remove nothing of the container runs or is mounted, so its disks
// can be detached; its layer is complete. The machine ends with Shutdown, or when
// the channel is closed, and not with a container.
//
// # What the host may rely on
//
// Output is carried without loss: a process that exited has its last bytes
// delivered before Exited is closed, read or not. A slow or absent reader of
// one stream holds up that stream only; the process then waits in write(2) as
// on any full pipe, until it ends.
//
// The output of an exec'd process goes on after its exit if children of it
// hold it open, for ten seconds at most, as with containerd's runc shim;
// Drained is closed when it ends. The container's own process takes all others
// with it.
//
// The guest is not trusted: what it sends is bounded by package wire, a guest
// that breaks the protocol loses its session, and what it says never grows
// more than a stream's buffer.
//
// # What is not applied
//
// AppArmor, SELinux and Intel RDT settings of the specification have no effect in the
// machine, which is the boundary. A seccomp profile has; one that asks a program of
// the host is refused. Memory and CPU limits shape
// the machine; the limit on processes is enforced inside. What the guest cannot
// honour at all (a namespace shared with the host, a host device) is refused by
// Plan.
package linux
