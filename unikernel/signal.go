package unikernel

import "syscall"

// SignalAction is what a signal does to a process that does not handle it.
type SignalAction int

// Actions of signals, see signal(7).
const (
	SignalTerminates SignalAction = iota
	SignalIsIgnored
	SignalStops
)

// MaxSignal is the largest number of a signal (SIGRTMAX).
const MaxSignal syscall.Signal = 64

// ActionOf returns the action of a signal of Linux. SIGCONT does nothing to a
// process that is not stopped.
func ActionOf(sig syscall.Signal) SignalAction {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH:
		return SignalIsIgnored
	case syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return SignalStops
	default:
		return SignalTerminates
	}
}
