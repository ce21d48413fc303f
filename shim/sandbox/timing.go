package sandbox

import "time"

// How long things may take. They are variables for the tests alone.
var (
	// lastWords is how long the news of a machine's end may be later than the end.
	lastWords = 2 * time.Second
	// consoleTimeout bounds waiting for the end of the console.
	consoleTimeout = 200 * time.Millisecond
	// shutdownTimeout bounds telling the guest that it may power off.
	shutdownTimeout = time.Second
	// quiesceTimeout bounds waiting for a guest to write all that it holds to its
	// disk; then the machine ends all the same.
	quiesceTimeout = time.Minute
	// idlePatience is how long a machine may do nothing before its guest is up.
	idlePatience = 4 * time.Second
	// forkTimeout is how long a machine that goes on from a template may take to
	// answer, which takes it some milliseconds, before another one boots.
	forkTimeout = 15 * time.Second
	// clockTimeout bounds setting the guest's clock after a pause.
	clockTimeout = 5 * time.Second
	// attachTimeout bounds giving disks to a running machine, detachTimeout taking
	// them away.
	attachTimeout, detachTimeout = 30 * time.Second, 30 * time.Second
	// destroyTimeout bounds asking libvirt to destroy a machine; after that
	// the hypervisor is killed.
	destroyTimeout = 10 * time.Second
)
