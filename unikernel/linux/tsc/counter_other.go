//go:build !amd64

package tsc

// counter is that of a processor without one.
func counter() uint64 { return 0 }
