// Package builder makes the disks a container boots from and keeps what the
// next container can share.
//
// A Store owns the cache below its directory:
//
//	<dir>/cache/lock                     see below
//	<dir>/cache/roots/<digest>.erofs     one image's files, read-only
//	<dir>/cache/roots/<digest>.tfs       a disk to boot from with one image's files, read-only
//	<dir>/cache/roots/<digest>.file      a kernel, initrd or disk out of an image, read-only
//	<dir>/cache/roots/<digest>.disk      a copy of a finished disk, read-only
//	<dir>/cache/volumes/<digest>.tfs     the files of a read-only bind mount
//	<dir>/cache/templates/<digest>.ext4  an empty, formatted file system, sparse
//	<dir>/containers/<key>/              the caller's; on the same file system
//
// A container gets hard links: root.erofs is a link of a root, and writable.ext4 of
// its layer's disk, which lies with the container's snapshot:
//
//	<layer's home>/layer.ext4   the disk, first a copy of a template
//	<layer's home>/state.json   what the layer's directory was when both were the same
//	<layer's home>/synced       the same, once it would be found after a crash of the host
//	<layer's home>/lock         held, flock, by the container that has the layer
//	<layer's home>/next         the directory that is to be the layer's, while it is made
//	<layer's home>/old          the one that was, until it is removed
//
// After its machine has ended, the disk is the truth until Save has exchanged the
// layer's directory for what is on it; then the directory is, so that what others
// put there counts. Where a layer cannot be kept so, its disk is the container's alone
// and is merged into the root file system. A container that boots from its root has boot.tfs, a
// link of a disk, and boot.qcow2, its configuration and what it writes; its
// volumes are volume-0.tfs and so on, links where they are shared. An image
// that is a finished disk is linked from its snapshot, past the cache, and copied
// to it only where that cannot be. So a cached file is in use exactly while its
// link count is above one. Nothing has to be counted or released: removing the
// container's directory does it, and a kill -9 at any time leaves nothing that
// pins the cache.
//
// What makes concurrent use from several processes safe:
//
//   - A file appears under its final name by rename, complete and synced.
//   - One process builds a key: it holds flock on <file>.lock, which the kernel
//     releases when it dies. The others wait for the file or the lock.
//   - Unfinished files are named <file>.<…>.tmp. Whoever gets the lock of their
//     key knows that their builder is dead, and removes them.
//   - Linking a cached file to a container holds flock shared on cache/lock,
//     taking a file out of the cache holds it exclusively, so no file leaves
//     between the check that it is unused and its removal.
//
// The cache is bounded in allocated bytes; the least recently used files leave
// first, and never one in use.
package builder
