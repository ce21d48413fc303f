// Package guesttest is the contract of unikernel.Session and unikernel.Process
// as a test. Every guest passes it, and so does what stands for one in the tests
// of those who use a guest: a fake is not politer than the real part.
package guesttest
