// Package share gathers the bind mounts of a container in one directory of the
// host, which is then shared into its machine: mount number n of those appears
// there under the name n.
//
// Only files and directories can be shared. A socket, a device, or a piece of
// the host's /proc or /sys is an interface to this kernel, not data; it would
// not work in a guest, so it is refused with the reason.
//
// Whatever is mounted below the directory is found in the mount table and
// unmounted, so a later process can clean up knowing the directory alone.
package share
