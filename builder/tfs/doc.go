// Package tfs writes, reads and extends TFS, the file system of Nanos, version
// 5, and the bootable disk around it. Files come from a tree (package tree).
//
// A file system is a region of a disk in sectors of 512 bytes. Its metadata is
// a log of records, each of which sets attributes of tuples; the tuples are the
// tree. The log is a chain of extensions: the first is sector 0, those that
// follow have 512 KiB. File data are runs of sectors anywhere else.
//
//	sector 0     the first extension: UUID, label, a link to the second
//	8 …          data of the files, in the order of the tree
//	…            log extensions with all of the tree
//	…            the last extension, empty: Append writes here, and the kernel
//	…            free: what Append adds, and what the guest writes
//
// A disk:
//
//	sector 0     the boot loader's first stage with the partition table
//	1 …          the boot loader's second stage
//	…            nothing: package image has its manifest here, up to LogOffset
//	1 MiB-4 KiB  the kernel's last words, see LogOffset
//	1 MiB        partition 1: a file system of 12 MiB with the kernel
//	13 MiB       partition 2: the root file system
//
// A volume is a file system alone, from sector 0 of its disk, see Volume.
//
// The disk is shared between containers and never changes. What differs, the
// program and its settings and a few small files, Append turns into one more
// record for a copy-on-write layer.
//
// The writer streams: it holds the names, not the data. The same tree gives the
// same bytes: what is a hole follows from what is in a file, see holeSize. TFS has no owners, modes and devices: those are not stored, nor
// are extended attributes but those named "user.". What lies below /dev, /proc
// and /sys of a root is left out, because the kernel makes its own files there
// and halts on a name that is taken.
//
// The encoding is that of Nanos' src/runtime/tuple.c and src/fs/tlog.c, the
// attributes those of src/fs/tfs.c and fs.c, the layout that of tools/mkfs.c
// and src/runtime/storage.h.
package tfs
