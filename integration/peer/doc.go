// Package peer runs a private containerd: a version of its own, below a
// directory of its own, with its own sockets, so that it never meets the
// machine's containerd. It owns the process and everything under the
// directory; the tests and the benchmark drive it through ctr.
//
// A Peer goes through Start, any number of Restart and Kill, and Stop, which
// ends every task and process that is still there.
package peer
