// Package elffile reads what matters here of ELF files that nobody vouches for:
// programs, libraries and kernels of images. debug/elf reads whole sections as
// their headers claim them, gigabytes where a file is sparse; here whatever a
// file claims costs kilobytes. Each table has a bound of its own, tables and
// strings are read where they are needed and through windows of a fixed size.
//
// The format is that of elf(5) and the System V ABI; types and names of numbers
// are debug/elf's.
package elffile
