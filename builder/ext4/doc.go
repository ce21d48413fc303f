// Package ext4 reads the file systems that package builder makes for what
// containers write, after machines have written to them.
//
// Whoever wrote one is not trusted: nothing is believed that is not checked
// against the disk's size, nothing is allocated for a number that is only
// claimed, and no chain of blocks is followed in a circle. What the kernel could
// read and this package cannot (other features than those of a layer) is
// ErrFormat.
//
// A file system whose machine crashed has blocks in its journal that are not in
// their places yet. They are found when it is opened, and read from the journal:
// the disk is never written to.
//
// The format is that of the kernel's Documentation/filesystems/ext4, the journal's
// that of journal.rst there; numbers and names are from these.
package ext4
