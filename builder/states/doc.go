// Package states keeps the states of machines that have booted: templates, from which
// other machines of the same shape go on instead of booting.
//
//	DATA/templates/
//	  lock            held while one is made: one at a time on a host
//	  SHAPE/state     QEMU's state, RAM included, of what the guest has not used holes
//	  SHAPE/meta.json what it is of, its size and checksum; its time is that of the last use
//	  SHAPE.bad       why there is none, and shall be none for a while
//	  .new-*          what is being made, or was left by one who was killed
//
// Everything is root's alone: QEMU is given the open file. A template is made beside
// its name and renamed, so who finds one finds all of it. It is not locked against
// removal: who has opened it has it, and others boot.
package states
