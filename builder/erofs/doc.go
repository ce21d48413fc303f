// Package erofs writes a file tree (package tree) as an EROFS file system: read-only,
// uncompressed, with nanosecond modification times, hard links, device nodes
// and extended attributes. Any Linux since 5.4 mounts it.
//
// The same tree gives the same bytes: entries are sorted, the UUID and the
// build time are fixed, inode numbers follow from the order. Holes of a sparse
// file stay holes of the image.
//
//	block 0            1024 bytes free, superblock, then inodes
//	…                  inodes: each with its extended attributes and, where it
//	                   fits in the block, the last partial block of its data
//	meta … end         the data of each file in whole blocks, contiguous
//
// The tree's inodes are listed first (inodes.go), then every one gets its place
// (layout.go), then inodes and data are written (write.go). Numbers and layouts
// are those of the kernel's fs/erofs/erofs_fs.h and
// Documentation/filesystems/erofs.rst.
package erofs
