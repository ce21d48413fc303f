// Package stdio connects a process of a guest to the streams containerd named
// for it: fifos, files, a logging program, or nothing.
//
// Three rules hold for every kind of stream:
//
//   - Opening never waits for the other side: a client may come late or never.
//   - A client that goes away breaks nothing: the shim holds both ends of every
//     fifo, so another client can attach later.
//   - A stream that fails (disk full, logger dead) is logged once and discards
//     from then on; the guest is never stopped by it.
//
// The schemes are containerd's: a plain path or fifo:// is a fifo (or a file
// that exists), file:// appends to a file, binary:// and binary-v2:// start a
// logging program that reads standard output on descriptor 3, standard error on
// 4, and says on 5 that it is ready.
package stdio
