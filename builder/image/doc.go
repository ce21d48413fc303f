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
// with mode 0755 and time 0; what the header of a hard link says of owner and
// mode is not applied, its target has them; a symbolic link in the directory
// part of a path is followed as chroot would, in this layer and in earlier ones.
// Attributes of the host that made a layer (overlayfs, SELinux) are left out.
//
// Formats: the OCI image and distribution specifications 1.1, layer.md for
// whiteouts; "docker save" archives have a manifest.json with the paths of
// config and layers.
package image
