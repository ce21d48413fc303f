package task

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// moves is every move that is allowed, written down a second time as lines
// "operation: state>state …".
const moves = `
start: created>starting
kill: created>created starting>starting running>running pausing>pausing paused>paused resuming>resuming
pause: running>pausing
resume: paused>resuming
exec: created>created starting>starting running>running
resize: created>created starting>starting running>running pausing>pausing paused>paused resuming>resuming
update: created>created starting>starting running>running pausing>pausing paused>paused resuming>resuming
stats: created>created starting>starting running>running pausing>pausing paused>paused resuming>resuming
delete: created>created stopped>deleting
ran: starting>running
paused: pausing>paused
pause failed: pausing>running
resumed: resuming>running
resume failed: resuming>paused
exit: created>stopped starting>stopped running>stopped pausing>stopped paused>stopped resuming>stopped
delete failed: deleting>stopped
`

func allowed(t *testing.T, text string) map[op]map[string]string {
	t.Helper()
	all := map[op]map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		name, list, _ := strings.Cut(line, ": ")
		all[op(name)] = map[string]string{}
		for _, m := range strings.Fields(list) {
			from, to, _ := strings.Cut(m, ">")
			all[op(name)][from] = to
		}
	}
	return all
}

func TestStates(t *testing.T) {
	want := allowed(t, moves)
	if len(want) != len(table) {
		t.Errorf("%d operations are in the table, %d are known here", len(table), len(want))
	}
	for o := range want {
		for _, from := range States {
			to, err := from.next(o)
			expected, ok := want[o][from.String()]
			switch {
			case ok && (err != nil || to.String() != expected):
				t.Errorf("%s in %s: got %s, %v; want %s", o, from, to, err, expected)
			case !ok && err == nil:
				t.Errorf("%s in %s: allowed, to %s", o, from, to)
			case !ok && to != from:
				t.Errorf("%s in %s: refused, but moved to %s", o, from, to)
			}
			checkRefusal(t, o, from.String(), err)
		}
	}
}

// checkRefusal: a finished process is not found, anything else is a failed
// precondition that names the state.
func checkRefusal(t *testing.T, o op, state string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if o == opKill && (state == "stopped" || state == "deleting") {
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "process already finished") {
			t.Errorf("kill in %s: %v", state, err)
		}
		return
	}
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), state) {
		t.Errorf("%s in %s: %v", o, state, err)
	}
}

const execMoves = `
start: created>starting
ran: starting>running
kill: starting>starting running>running
resize: created>created starting>starting running>running
exit: created>stopped starting>stopped running>stopped
delete: created>stopped stopped>stopped
`

func TestExecStates(t *testing.T) {
	want := allowed(t, execMoves)
	if len(want) != len(execTable) {
		t.Errorf("%d operations are in the table, %d are known here", len(execTable), len(want))
	}
	for o := range want {
		for from := execCreated; from <= execStopped; from++ {
			to, err := from.next(o)
			expected, ok := want[o][from.String()]
			if ok != (err == nil) || ok && to.String() != expected {
				t.Errorf("%s in %s: got %s, %v; want %q", o, from, to, err, expected)
			}
			checkRefusal(t, o, from.String(), err)
		}
	}
}
