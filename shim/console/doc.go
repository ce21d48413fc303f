// Package console reads the serial console of a machine and keeps its last
// bytes, for the log line that explains why a guest ended. A guest that floods
// its console costs a fixed amount of memory.
package console
