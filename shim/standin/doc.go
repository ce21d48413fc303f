// Package standin keeps a process on the host that stands for a container: its
// number is the one that clients get.
//
// Clients look a container up through that number. nerdctl copies files by
// /proc/PID/root; it, ctr and CNI find the network in /proc/PID/ns/net; another
// container may be told to join the PID, IPC or UTS namespace there; hooks get
// the number in the container's state. The hypervisor cannot be that process:
// its root and most of its namespaces are the host's.
//
// A stand-in is in the container's network namespace. Mount, PID, IPC and UTS
// namespaces are its own and hold nothing, its root is an empty file system that
// cannot be written. It runs a program of a few instructions, see program.go,
// which waits for a pipe of its starter's to end, so it outlives nobody. As the
// first process of its PID namespace it cannot be ended by signals other than
// SIGKILL, like the first process of a container that does not handle them.
package standin
