// Package tree is the neutral description of a file tree that becomes a disk:
// its inodes, with the contents of regular files behind an Opener. Writers of
// file systems take it; a directory of the host (Scan), the layers of an image
// and the reader of a file system give it.
//
// A tree is a graph of nodes from a root directory. A file that has several
// names is one node in several entries; a directory has one name.
package tree
