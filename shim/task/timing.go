package task

import "time"

// spacePlenty is how many bytes of the host's disk no guest writes in a few seconds.
const spacePlenty = 32 << 30

// How long things may take. They are variables for the tests alone.
var (
	// IdleTimeout is how long a shim waits for a container. containerd asks for one
	// within milliseconds of its start, on a busy host within seconds.
	IdleTimeout = 30 * time.Second
	// lastWords is how long, after a machine ended, its guest's report may
	// still be on its way through our buffers; and, after a guest fell silent,
	// how long the reason may take to show.
	lastWords = 2 * time.Second
	// collectTimeout bounds waiting for exec processes that died with the first.
	collectTimeout = 2 * time.Second
	// drainTimeout bounds waiting for a reader of the output of a container
	// that has exited and is not deleted, while its machine stays.
	drainTimeout = time.Minute
	// exitPatience bounds waiting for the machine to go before the exit of its
	// first process is announced. It goes within 20 ms, unless somebody has
	// yet to read the output.
	exitPatience = 100 * time.Millisecond
	// spacePeriod is how often the host's disk space is looked at, ten times less
	// often while there is plenty. spaceTimeout bounds telling the guest.
	spacePeriod, spaceTimeout = time.Second, 5 * time.Second
	// saveTimeout bounds writing a container's changes back to its snapshot.
	saveTimeout = 10 * time.Minute
	// removeTimeout bounds taking a container out of a guest: longer than the linux
	// guest takes at most. podEndTimeout bounds that for all of a pod that ends.
	removeTimeout, podEndTimeout = time.Minute, 20 * time.Second
	// statsTimeout bounds asking the guest what the container uses, and changing
	// its limits.
	statsTimeout = 2 * time.Second
	// killSignalTimeout is how long a guest may take to deliver SIGKILL and to
	// report that the process is gone, before its machine is destroyed.
	killSignalTimeout = 2 * time.Second
	// patience is how long a client waits for a guest that does not answer;
	// answerTimeout is how long the guest may take to answer after all. A guest
	// that has just begun to boot takes signals after some 15 s.
	patience      = 2 * time.Second
	answerTimeout = time.Minute
	// settleTimeout bounds waiting for a pause or the end of one.
	settleTimeout = 10 * time.Second
	// execTimeout bounds starting a further process: with it the client has an
	// answer while it still waits for one.
	execTimeout = 30 * time.Second
	// deleteDrainTimeout is how long a reader may still take what a deleted
	// process wrote.
	deleteDrainTimeout = 2 * time.Second
	// deleteTimeout bounds deleting a container, whatever hangs.
	deleteTimeout = 30 * time.Second
)
