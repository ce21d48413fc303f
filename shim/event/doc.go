// Package event carries a shim's events to containerd: one queue, one sender,
// so events arrive in the order they were sent, whatever happens between.
//
// An event that cannot be delivered stays at the head of the queue and is tried
// again, over a new connection, until containerd is back or the event is too
// old to mean anything: a containerd that restarts misses none. Sending never
// blocks the caller.
//
// The way to containerd is the ttrpc address it gives its shims, or, without
// one, its own binary ("containerd publish").
package event
