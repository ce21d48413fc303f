// Package metrics tells containerd's clients what a container uses, in
// containerd's types for cgroups of version 1 and 2. Which of the two is the
// host's affair: clients know its version and expect that.
//
// The numbers are the guest's, which knows the container's processes from its
// own, where it counts them; what QEMU uses is the cgroup's on the host, not the
// container's. How often the CPU's quota held the container back is the host's:
// there it is enforced.
package metrics
