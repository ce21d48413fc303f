// Package changes carries what a container wrote from its disk, an ext4 file
// system with an overlay's upper directory in it, to a directory of the host.
//
// The disk is not trusted. Package ext4 reads it; here every name is one element
// of a path and is created in a directory that is held open, so no link is ever
// followed, and what is written is bounded by what the disk's file occupies. Of
// the attributes, those go over that a container could have set under runc, and of
// overlayfs' own only "opaque". Owners, modes, times, devices, hard links, holes
// and access control lists are as in the guest.
package changes
