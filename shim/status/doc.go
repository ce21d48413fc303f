// Package status is how the machines of a host are looked at, without a daemon and
// without containerd: each sandbox has a Unix socket in its directory on which its
// shim tells what it is and what it holds. Command uni asks them all.
//
// A client sends one Request as JSON, on one line, and reads one Answer as JSON to
// the end of the connection. Only root may connect. Nothing can be changed by it.
// A sandbox whose socket nobody serves has lost its shim.
package status
