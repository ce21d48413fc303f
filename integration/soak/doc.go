// Package soak lets many containers live, some at a time, each a life of a kind
// that is drawn by lot: some say hello, some are fed, some have terminals, some
// are paused, and of some the client, the shim, QEMU or containerd dies. It counts
// what a user would complain of: wrong statuses, output that is cut off, calls
// that hang, events that are lost or come twice, and whatever is left behind.
//
// What a life does depends on the seed alone, when it does it on the machine: a
// fault that shows once in a hundred lives shows again in the next hundred, not
// at the same place.
//
//	lives (workers at a time) ─ faults ─┐
//	ctr events ─ per container ─────────┼─ Report ─ table
//	stock before ─ stock after ─────────┘
package soak
