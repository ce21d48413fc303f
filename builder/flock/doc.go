// Package flock has the locks by which processes of this runtime agree on who
// works on a file: flock(2) on a file made for it. The kernel releases them when
// their holder dies.
//
// A waiting caller cannot be interrupted, so whoever holds such a lock never waits
// for anything itself: no network, no other lock.
package flock
