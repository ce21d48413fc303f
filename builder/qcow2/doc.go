// Package qcow2 writes disk images in QEMU's format: an empty copy-on-write
// image over a backing file (Overlay), from which reads come until something is
// written, and a whole disk without its zeros (Convert), which Reader reads.
//
// The format is version 3 as specified in QEMU's docs/interop/qcow2.txt, with
// clusters of 64 KiB and reference counts of 16 bits, QEMU's own defaults.
//
// An overlay is
//
//	cluster 0   header, header extensions, backing file's name
//	cluster 1   refcount table, one entry
//	cluster 2   refcount block: one reference for each cluster here
//	cluster 3…  L1 table, all zero: everything is in the backing file
package qcow2
