// Package changes carries what a container wrote from its disk, an ext4 file
// system with an overlay's upper directory in it, to a directory of the host.
//
// The disk is not trusted. Package ext4 reads it; here every name is one element
// of a path and is created in a directory that is held open, so no link is ever
// followed. What is written is bounded by what the disk's file occupies: a file is
// made once, however many names a damaged disk gives it beyond those that it counts;
// and blocks of files and directories, targets and attributes are paid for each time
// that they are met. Of the attributes, those go over that a container could have set
// under runc, and of overlayfs' own only "opaque". Owners, modes, times, devices, hard
// links, holes and access control lists are as in the guest. Paths may be longer than
// the host's kernel takes.
package changes
