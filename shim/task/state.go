package task

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a container is in its life.
type State int

// The states of a container.
const (
	Created State = iota
	Starting
	Running
	Pausing
	Paused
	Resuming
	Stopped
	Deleting
)

// States lists all states.
var States = []State{Created, Starting, Running, Pausing, Paused, Resuming, Stopped, Deleting}

var stateNames = map[State]string{
	Created: "created", Starting: "starting", Running: "running", Pausing: "pausing",
	Paused: "paused", Resuming: "resuming", Stopped: "stopped", Deleting: "deleting",
}

// String returns the state's name as used in errors.
func (s State) String() string { return stateNames[s] }

// op is something that happens to a container: asked for by containerd, or, in
// the second group, noticed by ourselves.
type op string

const (
	opStart  op = "start"
	opKill   op = "kill"
	opPause  op = "pause"
	opResume op = "resume"
	opExec   op = "exec"
	opResize op = "resize"
	opUpdate op = "update"
	opStats  op = "stats"
	opDelete op = "delete"

	opRan          op = "ran"           // the guest started the process
	opPaused       op = "paused"        // the machine is paused
	opPauseFailed  op = "pause failed"  // it is not
	opResumed      op = "resumed"       // the machine runs again
	opResumeFailed op = "resume failed" // it does not
	opExit         op = "exit"          // the first process or the machine ended
	opDeleteFailed op = "delete failed" // something of the container is left
)

// noticed says that nobody asked for it.
func (o op) noticed() bool {
	switch o {
	case opRan, opPaused, opPauseFailed, opResumed, opResumeFailed, opExit, opDeleteFailed:
		return true
	}
	return false
}

// table says which state follows when something happens in a state. What it
// does not list is refused.
var table = map[op]map[State]State{
	opStart:  {Created: Starting},
	opKill:   {Created: Created, Starting: Starting, Running: Running, Pausing: Pausing, Paused: Paused, Resuming: Resuming},
	opPause:  {Running: Pausing},
	opResume: {Paused: Resuming},
	opExec:   {Created: Created, Starting: Starting, Running: Running},
	opResize: {Created: Created, Starting: Starting, Running: Running, Pausing: Pausing, Paused: Paused, Resuming: Resuming},
	opUpdate: {Created: Created, Starting: Starting, Running: Running, Pausing: Pausing, Paused: Paused, Resuming: Resuming},
	opStats:  {Created: Created, Starting: Starting, Running: Running, Pausing: Pausing, Paused: Paused, Resuming: Resuming},
	opDelete: {Created: Created, Stopped: Deleting},

	opRan:          {Starting: Running},
	opPaused:       {Pausing: Paused},
	opPauseFailed:  {Pausing: Running},
	opResumed:      {Resuming: Running},
	opResumeFailed: {Resuming: Paused},
	opExit: {Created: Stopped, Starting: Stopped, Running: Stopped, Pausing: Stopped, Paused: Stopped,
		Resuming: Stopped},
	opDeleteFailed: {Deleting: Stopped},
}

// next returns the state that follows o in s, or an error that says why o is
// refused.
func (s State) next(o op) (State, error) {
	if to, ok := table[o][s]; ok {
		return to, nil
	}
	if o == opKill && (s == Stopped || s == Deleting) {
		// The words by which clients of runc know it.
		return s, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	if o.noticed() {
		return s, fmt.Errorf("the container is %s by now: %w", s, errdefs.ErrFailedPrecondition)
	}
	return s, fmt.Errorf("cannot %s a container that is %s: %w", o, s, errdefs.ErrFailedPrecondition)
}

// execState is where a further process is in its life.
type execState int

const (
	execCreated execState = iota
	execStarting
	execRunning
	execStopped
)

var execStateNames = map[execState]string{
	execCreated: "created", execStarting: "starting", execRunning: "running", execStopped: "stopped",
}

func (s execState) String() string { return execStateNames[s] }

// execTable is the table of further processes.
var execTable = map[op]map[execState]execState{
	opStart:  {execCreated: execStarting},
	opRan:    {execStarting: execRunning},
	opKill:   {execStarting: execStarting, execRunning: execRunning},
	opResize: {execCreated: execCreated, execStarting: execStarting, execRunning: execRunning},
	opExit:   {execCreated: execStopped, execStarting: execStopped, execRunning: execStopped},
	opDelete: {execCreated: execStopped, execStopped: execStopped},
}

func (s execState) next(o op) (execState, error) {
	if to, ok := execTable[o][s]; ok {
		return to, nil
	}
	if o == opKill && s == execStopped {
		return s, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return s, fmt.Errorf("cannot %s an exec process that is %s: %w", o, s, errdefs.ErrFailedPrecondition)
}
