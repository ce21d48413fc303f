package sandbox

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a sandbox is in its life.
type State int

// The states of a sandbox.
const (
	Defined State = iota
	Created
	Booting
	Up
	Pausing
	Paused
	Resuming
	Ended
	Released
)

// States lists all states.
var States = []State{Defined, Created, Booting, Up, Pausing, Paused, Resuming, Ended, Released}

var stateNames = map[State]string{
	Defined: "defined", Created: "created", Booting: "booting", Up: "up", Pausing: "pausing",
	Paused: "paused", Resuming: "resuming", Ended: "ended", Released: "released",
}

// String returns the state's name as used in errors.
func (s State) String() string { return stateNames[s] }

// op is something that happens to a sandbox: asked for by its members, or, in
// the second group, noticed by ourselves.
type op string

const (
	opJoin    op = "join"
	opCreate  op = "create"
	opBoot    op = "boot"
	opPause   op = "pause"
	opResume  op = "resume"
	opAttach  op = "attach disks to"
	opRelease op = "release"

	opBooted       op = "booted"        // the guest is ready
	opPaused       op = "paused"        // the machine's CPUs are stopped
	opPauseFailed  op = "pause failed"  // they are not
	opResumed      op = "resumed"       // they run again
	opResumeFailed op = "resume failed" // they do not
	opEnd          op = "end"           // the machine is no more, or will not be
)

// table says which state follows when something happens in a state. What it
// does not list is refused.
var table = map[op]map[State]State{
	opJoin: {Defined: Defined, Created: Created, Booting: Booting, Up: Up, Pausing: Pausing, Paused: Paused,
		Resuming: Resuming},
	opCreate:  {Defined: Created},
	opBoot:    {Created: Booting},
	opPause:   {Up: Pausing},
	opResume:  {Paused: Resuming},
	opAttach:  {Up: Up},
	opRelease: {Ended: Released},

	opBooted:       {Booting: Up},
	opPaused:       {Pausing: Paused},
	opPauseFailed:  {Pausing: Up},
	opResumed:      {Resuming: Up},
	opResumeFailed: {Resuming: Paused},
	opEnd: {Defined: Ended, Created: Ended, Booting: Ended, Up: Ended, Pausing: Ended, Paused: Ended,
		Resuming: Ended},
}

// next returns the state that follows o in s, or an error that says why o is
// refused.
func (s State) next(o op) (State, error) {
	if to, ok := table[o][s]; ok {
		return to, nil
	}
	return s, fmt.Errorf("cannot %s a sandbox that is %s: %w", o, s, errdefs.ErrFailedPrecondition)
}
