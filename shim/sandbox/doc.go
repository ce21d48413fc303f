// Package sandbox keeps one machine and all that it needs on the host: its
// names, network, cgroup, processes, console and guest session. It is the only
// caller of Machines. What runs in the machine is its members': see package task,
// whose containers join a sandbox. A container that is alone has a sandbox of one;
// the same code runs, since a sandbox ends with its owner.
//
// # Its life
//
//	            create              boot             booted
//	┌─────────┐      ┌─────────┐        ┌─────────┐        ┌────┐
//	│ defined │─────▶│ created │───────▶│ booting │───────▶│ up │◀──────────────────┐
//	└─────────┘      └─────────┘        └─────────┘        └────┘                   │
//	     │                │                  │         pause │ ▲ failed             │ resumed
//	     │                │                  │               ▼ │                    │
//	     │                │                  │          ┌─────────┐ paused ┌────────┐ resume ┌──────────┐
//	     │                │                  │          │ pausing │───────▶│ paused │───────▶│ resuming │
//	     │                │                  │          └─────────┘        └────────┘◀───────└──────────┘
//	     │                │                  │               │                 │     failed       │
//	     ▼ end            ▼ end              ▼ end           ▼ end             ▼ end              ▼ end
//	┌──────────────────────────────────────────────────────────────────────────────────────────────┐
//	│                                            ended                                             │
//	└──────────────────────────────────────────────────────────────────────────────────────────────┘
//	     │ release
//	     ▼
//	┌──────────┐
//	│ released │
//	└──────────┘
//
//	defined    names and configuration are known; a directory, cgroup and network
//	           namespace may be on the host
//	created    the machine exists, its CPUs do not run
//	booting    they run; the guest is not ready. A machine that has not run may
//	           be replaced before by one for the network that was found meanwhile,
//	           and one that sleeps by another that may not
//	up         the guest has a session: members run processes through it
//	ended      there is no machine, however that came; the reason is kept
//	released   nothing of the sandbox is on the host
//
// The table in state.go is the single list of what follows what. Who made a
// machine end is not asked: the guest, its owner (Leave), Destroy, or
// something on the host; one goroutine waits for it and records it, once.
//
// # Disks that come later
//
// Attach gives disks to a machine that is up: not to one that is paused, whose
// guest could not use them. Detach takes them away in every state, whatever becomes
// of who asked, since it frees the host; that of a machine that has ended waits for
// its processes. Each disk has a unit of its own, the lowest that is free, from
// Attach until Detach has returned without an error. One call is under way at a
// time.
//
// # Members
//
//	Join      before anything else. The first to join is the owner; others are
//	          refused once it, or the sandbox, has ended, and by the guest's capacity
//	Leave     the member has ended. The machine ends with the owner
//	Release   the member is deleted. The host is freed with the owner
//
// # Pods
//
//   - The owner of a pod's sandbox is the pod's own container (the pause of
//     Kubernetes), which runs no process; nothing here knows of that. Package task
//     ends the others before it.
//   - Hardware is all that a machine is made of. For a pod it has no Disks, but LUNs
//     and a Share: nothing of a container is in what boots. Containers bring their
//     disks with Attach and take them away with Detach, when the guest has
//     unmounted them.
//   - StandIn is the sandbox's, whose number clients get for the owner. AddStandIn
//     starts one for each of the others, in the same network namespace and cgroup.
//   - A pod whose guest holds one program has a hollow sandbox, which is made by Hollow
//     in place of Create: its containers have sandboxes of their own, in its network
//     namespace, one after the other.
//   - Pause is the machine's: containers of a pod are not paused.
//
// # Templates
//
// A machine goes on from the saved state of another where there is one of its shape:
// template.go. That changes what Machines.Create and Boot do, and no state: a machine
// that cannot is replaced by one that boots, as others are that are not what they
// should be.
package sandbox
