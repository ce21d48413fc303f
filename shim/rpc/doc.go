// Package rpc serves the task service of one shim over ttrpc: it turns
// containerd's messages into calls of package task and errors into codes, and
// decides nothing.
//
// containerd speaks two versions of the service, containerd.task.v2.Task (all
// of 1.6, 1.7 and 2.x) and containerd.task.v3.Task (2.x). Their messages are
// the same on the wire, field by field (a test compares the descriptors), so
// one set of methods is registered under both names.
package rpc
