// Package reader reads EROFS file systems into a tree (package tree). It was
// written from the kernel's Documentation/filesystems/erofs.rst and erofs_fs.h
// alone and shares no code with the writer, whose judge it is in tests.
//
// It reads uncompressed file systems with blocks of 4096 bytes, with extended
// and compact inodes, data in blocks and inline, and inline attributes. What it
// reads is not trusted: damage of any kind is ErrFormat. Open and Lookup take some
// kilobytes, whatever the image claims; Tree takes what its files do, up to the
// bounds of tree.Meter.
package reader
