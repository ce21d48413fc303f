// Package sandbox keeps one machine and all that it needs on the host: its
// names, network, cgroup, processes, console and guest session. It is the only
// caller of Machines. What runs in the machine is its members': see package task,
// whose containers join a sandbox. A container that is alone has a sandbox of one;
// the same code runs, since a sandbox ends with its last member.
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
// machine end is not asked: the guest, its last member (Leave), Destroy, or
// something on the host; one goroutine waits for it and records it, once.
//
// # Members
//
//	Join      before anything else; refused once the sandbox, or its last
//	          member, has ended, and by the guest's capacity
//	Leave     the member has ended. The machine ends with the last one
//	Release   the member is deleted. The host is freed with the last one
//
// # Where pods plug in
//
//   - The pod's own container (the pause of Kubernetes) is a member without a
//     process: it joins first and leaves when it is killed, so the machine stays
//     between the others. Nothing here knows of it. task.Service finds the
//     sandbox of a container by its group, and does not rest while there is one.
//   - Hardware is all that a machine is made of. For a pod it has no Disks and a
//     Share: nothing of a container is in what boots, and Build need not look at
//     one. unikernel.Plan has the two parts apart: Boot, and Disks.
//   - Containers of a running machine get their disks by two operations more of
//     Machines, Attach and Detach of a unikernel.Disk at a LUN; they belong beside
//     Pause in this package, as methods of a sandbox that is up, and are called by
//     the container's diskSet in place of handing its list to Hardware. Save is
//     for the last member; another's layer is complete when its guest has
//     unmounted it, before Detach.
//   - Session.Run starts the first process of the only container. The linux guest's
//     session is a unikernel.PodSession, too: Configure with the pod's own container,
//     then Container, Run and Remove for each of the others. A container then ends
//     its own processes by Remove where it now ends the machine (task: forceEnd) or
//     the session (task: collectExecs), and asks its ContainerSession for statistics,
//     limits and space where it now asks the Session. Namespaces by path that mean
//     the pod's own are taken out of a specification before a guest sees it: guests
//     refuse each. Guest.Capacity stays 1 until Attach is there, which is all that
//     Join asks.
//   - Pause is the machine's. A container of several is frozen by its guest.
//   - Names of a container's sandbox come from task.NewNames: the group's id in
//     place of its own is all that differs.
//   - The stand-in is the sandbox's, and its number every member's. A number for
//     each is a stand-in for each in the same network namespace, which Withdraw
//     then ends by member.
//   - Templates (a machine that is loaded instead of booted) take the place of
//     Machines.Create and Resume between created and up.
package sandbox
