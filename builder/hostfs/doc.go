// Package hostfs reads a container's files from the host for the writers of
// file systems: names in a fixed order, extended attributes without the host's
// own, and data without its holes. Look finds out how large a tree is, and
// whether it is the one that was read before. The tree comes from an image and is not
// trusted: no symbolic link is followed, no pipe or device waited for.
package hostfs
