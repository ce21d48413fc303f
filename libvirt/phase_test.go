package libvirt

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	lv "libvirt.org/go/libvirt"
)

// moves are all that is in the table, written down a second time.
const moves = `
seen: starting>running
hinted: running>told
died: running>dead told>over
condemn: running>condemned told>condemned dead>condemned
ends: starting>over running>over told>over dead>over condemned>over
clears: over>clearing
forgot: clearing>cleared
`

func TestPhases(t *testing.T) {
	known := 0
	for line := range strings.SplitSeq(strings.TrimSpace(moves), "\n") {
		name, list, _ := strings.Cut(line, ": ")
		known++
		want := map[string]string{}
		for m := range strings.FieldsSeq(list) {
			from, to, _ := strings.Cut(m, ">")
			want[from] = to
		}
		for _, from := range phases {
			dom := newDomain("x")
			dom.phase = from
			ok := dom.passes(happening(name))
			to, listed := want[from.String()]
			if ok != listed || ok && dom.phase.String() != to || !ok && dom.phase != from {
				t.Errorf("%s in %s: %s, want %q", name, from, dom.phase, to)
			}
		}
	}
	if known != len(course) {
		t.Errorf("%d happenings are in the table, %d are known here", len(course), known)
	}
}

// TestCreateAwaitsRemoval: a name that libvirt is just giving up is waited for; one
// in use, and any other failure, is not.
func TestCreateAwaitsRemoval(t *testing.T) {
	removing := lv.Error{Code: lv.ERR_OPERATION_FAILED, Domain: lv.FROM_CONF, Message: "domain 'x' is already being removed"}
	active := lv.Error{Code: lv.ERR_OPERATION_INVALID, Domain: lv.FROM_CONF, Message: "domain 'x' is already active"}
	broken := lv.Error{Code: lv.ERR_INTERNAL_ERROR, Domain: lv.FROM_QEMU, Message: "QEMU said no"}
	helper := lv.Error{Code: lv.ERR_OPERATION_FAILED, Domain: lv.FROM_QEMU, Message: "Unable to find a satisfying virtiofsd"}
	for name, tt := range map[string]struct {
		answers []error
		want    error
	}{
		"removed meanwhile": {[]error{removing, removing, nil}, nil},
		"in use":            {[]error{removing, active}, fs.ErrExist},
		"broken":            {[]error{broken}, broken},
		"helper missing":    {[]error{helper}, helper},
	} {
		calls := 0
		err := awaitRemoval(t.Context(), func() error {
			calls++
			if err := tt.answers[calls-1]; err != nil {
				return refused(err)
			}
			return nil
		})
		if calls != len(tt.answers) || (err == nil) != (tt.want == nil) || errors.Is(tt.want, fs.ErrExist) != errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %d calls, %v", name, calls, err)
		}
		if errors.Is(err, errLeaving) {
			t.Errorf("%s: gave up: %v", name, err)
		}
	}
}
