// Package template makes templates: saved states of machines that have booted, from
// which others of the same shape go on. Package shim/sandbox uses them, and
// builder/states keeps them; docs/templates.md is for people.
//
// One is made by a process of its own, which nobody waits for: the shim starts it after
// a machine of a shape without a template has booted, and "uni template make" does.
//
//	Create, Resume ─▶ boot ─▶ Park ─▶ the session is closed ─▶ settle ─▶ Save, Destroy
//	                                        ─▶ a machine goes on from it, answers, and is destroyed
//
// The machine has what its shape says and nothing of anybody's: empty disks, taps in a
// network namespace of its own. There is one at a time on a host, at one place, so what
// a maker that was killed has left is found by the next. Its guest does not outlive it
// for long either: it ends with the control channel before it is parked, and a time
// after it.
package template
