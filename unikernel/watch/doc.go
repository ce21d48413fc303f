// Package watch is the session of a guest without a control channel. The guest
// runs its program by itself; all that can be done is to read its console, to
// press its machine's power button, and to see how the machine ends:
//
//	output    what the console says
//	SIGTERM   the power button, as all that ends a process by default
//	SIGWINCH  nothing, as all that is ignored by default, unless the image
//	          names it as its stop signal
//	SIGKILL   the end of the machine
//	status    what the guest makes of the machine's end
//
// Everything else is refused, in the words of the guest.
package watch
