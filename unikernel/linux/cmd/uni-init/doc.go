// Command uni-init is PID 1 of the linux guest. It starts exactly one
// container and speaks package wire with the host.
//
//	boot ──▶ Hello ──▶ waits for Run ──▶ container up, process runs
//	                                        │        ▲
//	                                        │        └─ Exec, Signal, Resize, streams
//	                                        ▼
//	                        process exited: pipes drained, Exit sent
//	                                        ▼
//	                        Shutdown (or the host is gone) ──▶ power off
//
// The application is PID 1 of a PID and a mount namespace of its own, as under
// runc; uni-init stays outside and signals it from there, so default actions
// and ignored signals are what they are under runc. One thread (spawner) owns
// these namespaces: it unshares them and forks every process of the container.
// What it forks is this same program under another name (stage2), which sets
// up the process from within and then becomes it.
//
// The program is linked without fmt, net and os/exec: it boots in each machine.
// Nothing in the machine confines the application further than the
// specification's capabilities, user and mounts: seccomp, AppArmor and SELinux
// are not applied, for the machine is the boundary.
package main
