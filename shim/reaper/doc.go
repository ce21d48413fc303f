// Package reaper waits for the processes that became the shim's children by
// losing their parent: a hypervisor that made itself a daemon, and whatever such
// a process leaves behind. The shim is their subreaper (prctl(2)).
//
// Children that somebody in the shim started and waits for are left alone: they
// share the shim's session, while a daemon is in one of its own (setsid(2)).
package reaper
