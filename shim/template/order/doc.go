// Package order is how a process asks another one, which has libvirt, to make a
// template: a document on its standard input.
package order
