// Package share gathers the bind mounts of a container in one directory of the
// host, which is then shared into its machine. A mount of a directory appears
// there under its number, one of a file in a directory for its file system, and
// one of what lies in another's source within that:
//
//	share/0          -v /srv:/srv
//	share/0/www      -v /srv/www:/www
//	share/file0/2    -v /etc/hosts:/etc/hosts
//
// Only files and directories can be shared. A socket, a device, or a piece of
// the host's /proc or /sys is an interface to this kernel, not data; it would
// not work in a guest, so it is refused with the reason.
//
// Whatever is mounted below the directory is found in the mount table and
// unmounted, so a later process can clean up knowing the directory alone.
package share
