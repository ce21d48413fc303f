// Package rootfs turns the mounts of a container's root file system, as
// containerd gives them, into a unikernel.Rootfs: something a disk can be built
// from, with a key that says when an existing disk holds the same files.
//
// The key stands for the snapshots below the container's own: their paths and
// what the file system says about their birth, so that the same path with other
// contents (a snapshotter's numbers start again when its directory is made
// anew) gives another key. A container whose own layer is not empty, and mounts
// that are not known to hold still, have no key.
package rootfs
