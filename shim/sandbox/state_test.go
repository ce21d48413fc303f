package sandbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// moves is every move that is allowed, written down a second time as lines
// "operation: state>state …".
const moves = `
join: defined>defined created>created booting>booting up>up pausing>pausing paused>paused resuming>resuming
create: defined>created
boot: created>booting
booted: booting>up
pause: up>pausing
paused: pausing>paused
pause failed: pausing>up
resume: paused>resuming
attach disks to: up>up
resumed: resuming>up
resume failed: resuming>paused
end: defined>ended created>ended booting>ended up>ended pausing>ended paused>ended resuming>ended
release: ended>released
`

func TestStates(t *testing.T) {
	want := map[op]map[string]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(moves), "\n") {
		name, list, _ := strings.Cut(line, ": ")
		want[op(name)] = map[string]string{}
		for m := range strings.FieldsSeq(list) {
			from, to, _ := strings.Cut(m, ">")
			want[op(name)][from] = to
		}
	}
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
			case !ok && (!errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), from.String())):
				t.Errorf("%s in %s: %v", o, from, err)
			case !ok && to != from:
				t.Errorf("%s in %s: refused, but moved to %s", o, from, to)
			}
		}
	}
}
