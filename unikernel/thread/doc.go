// Package thread runs functions that change what belongs to a thread: its
// namespaces, its root, its credentials.
package thread
