// Package boundtest holds readers of untrusted bytes to what they may cost.
package boundtest
