// Command uni-init is PID 1 of the linux guest. It holds containers and speaks
// package wire with the host.
//
//	boot ──▶ Hello ──▶ Sandbox: the machine is set up
//	                      │
//	                      ▼
//	               Container: a root, a cgroup, namespaces   (for each container)
//	                      │
//	                      ▼
//	               Run: the first process ◀── Exec, Signal, Resize, streams
//	                      │
//	                      ▼
//	               it exited, and took the others with it: pipes drained, Exit sent
//	                      │
//	                      ▼
//	               Remove: nothing runs, nothing is mounted, its disks are free
//
//	Shutdown, or the host is gone ──▶ power off, whatever runs
//
// A container's first process is PID 1 of a PID and a mount namespace of its own, as
// under runc; uni-init stays outside and signals it from there, so default actions
// and ignored signals are what they are under runc. Network, names and System V IPC
// are the machine's. One thread for each container (spawner) owns its namespaces: it
// unshares them, mounts the root there and forks every process of the container.
// What it forks is this same program under another name (stage2), which sets
// up the process from within and then becomes it.
//
// The program is linked without fmt, net and os/exec: it boots in each machine.
// Containers are apart by what the specification says: capabilities, user, mounts,
// devices, seccomp. AppArmor and SELinux are not applied, for the machine is the
// boundary.
package main
