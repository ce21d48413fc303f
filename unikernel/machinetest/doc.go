// Package machinetest says in tests what who runs machines must do, so that the
// part of the runtime that does and the fakes that stand for it in tests keep the
// same promises.
package machinetest
