//go:build race

package boundtest

// margin: with the race detector a sync.Pool drops a part of what is put into it
// (sync/pool.go), so decoders are made anew that are else used again.
const margin = 1.5
