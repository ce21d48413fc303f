// Package cri reads what containerd's service for Kubernetes says of a pod that the
// shim is to make by itself (sandboxer = "shim" of containerd 2, the sandbox API): the
// configuration of the container runtime interface, in place of the specification that
// containerd's own controller ("podsandbox") writes for a pause container.
//
// Translate turns the one into the other, so that one object serves both: what a pod
// is asked to be has one form, an OCI specification with the annotations of containerd's
// CRI. It is a pure function; facts of the host are its arguments.
package cri
