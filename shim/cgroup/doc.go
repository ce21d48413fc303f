// Package cgroup puts a machine's processes in the container's cgroup and
// takes it away again.
//
// The path is the one the specification names, so whoever looks at the
// container's cgroup (kubelet, ctr task metrics) finds QEMU there. Limits of
// memory are the guest's RAM plus what QEMU needs itself; limits of CPU are the
// container's. The specification's limit of processes concerns the guest, not
// QEMU's threads, and is not applied.
//
// Both cgroup versions are served, through github.com/containerd/cgroups. A
// controller that the host lacks, or does not let us use, is logged and left
// out. A cgroup that existed before is used and limited, but never deleted: a record beside
// the container's state says which one is ours, so a later process can delete
// it without knowing anything else. Cgroups above it that were made for it go
// when they are empty.
//
// Where systemd runs, a path of its form (slice:prefix:name) is a transient scope that
// systemd makes and delegates, and knows the limits of. Where it does not answer, the
// same path is made like any other, and the log says so.
package cgroup
