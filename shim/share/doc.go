// Package share gathers the bind mounts of containers in one directory of the
// host, a Tree, which is shared into their machine. Each container's come and go
// as a Group, also while the machine runs. In the directory of its group a mount
// of a directory appears under its number, one of a file in a directory for its
// file system, and one of what lies in another's source within that:
//
//	share/1/0          -v /srv:/srv
//	share/1/0/www      -v /srv/www:/www
//	share/1/file0/2    -v /etc/hosts:/etc/hosts
//	share/2/0          of the next container
//
// Only files and directories can be shared. A socket, a device, or a piece of
// the host's /proc or /sys is an interface to this kernel, not data; it would
// not work in a guest, so it is refused with the reason.
//
// Whatever is mounted below the directory is found in the mount table and
// unmounted, so a later process can clean up knowing the directory alone.
package share
