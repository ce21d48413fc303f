// Package image turns an OCI or Docker image into a file tree (package tree)
// and a disk, without unpacking it to the host's file system and without root.
//
// Open finds the image of a platform in a source: a directory in the OCI
// layout, an archive of such a layout or of docker save, or a registry. Flatten
// applies its layers:
//
//	source ─ manifest, config ─┐
//	                           ├─ spool: decompress, verify, list the entries
//	source ─ layers ───────────┘    of each layer; contents in unnamed files
//	         items ─ merge: one tree, whiteouts applied ─ tree.Node
//
// Nothing that comes from an image is trusted. Every blob is checked against
// its digest and size, every layer against its diff ID, before anything of it is
// used. Paths are resolved in the tree in memory, as chroot would do it, so a
// path or link of a layer cannot reach the host. What does not fit the
// specification is an error that wraps unikernel.ErrInvalid and names the layer
// and the entry.
//
// What a layer leaves open: a directory that no layer has is made as root's,
// with mode 0755 and time 0, also for a whiteout; what the header of a hard link
// says of owner, mode and time holds for its target; a symbolic link in the directory
// part of a path is followed as chroot would, in this layer and in earlier ones.
// Attributes of the host that made a layer (overlayfs, SELinux) are left out.
//
// Push stores a disk so that containerd can pull and run it: an OCI image whose
// manifest has ArtifactType, with a configuration of the usual type (program,
// environment, user, labels and platform of the image that the disk was made
// from) and one layer of the type tar+zstd:
//
//	.uni/disk.json   unikernel.DiskInfo and the disk's Manifest, mode 0444
//	.uni/disk.img    the disk, raw or qcow2, mode 0444
//	etc/passwd, etc/group and the image's volumes, which containerd and its
//	                 clients read on the host; they are on the disk, too
//
// The runtime takes the disk as it is (see shim/rootfs), Pull gives it back. The
// bytes depend on the disk alone, those of the compressed layer also on the
// version of the compressor. zstd, because containerd unpacks it several times
// as fast as gzip, in all versions since 1.5, and registries do not look.
//
// Formats: the OCI image and distribution specifications 1.1, layer.md for
// whiteouts; "docker save" archives have a manifest.json with the paths of
// config and layers.
package image
