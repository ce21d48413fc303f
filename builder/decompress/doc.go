// Package decompress reads what may be compressed: it recognises gzip and zstd
// by their first bytes, and bounds the memory they take.
package decompress
