// Package kerneltest makes what looks like kernels and releases, for tests. None
// of it boots.
package kerneltest
