package task

import (
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/guesttest"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestFakeConforms: the fake keeps the contract of a guest, which the real ones
// are tested for too.
func TestFakeConforms(t *testing.T) {
	guesttest.Session(t, func(*testing.T) guesttest.Subject {
		s := newSession()
		return guesttest.Subject{
			Session: s,
			Exec:    &specs.Process{Args: []string{"true"}}, Missing: &specs.Process{Args: []string{missing}},
			End:   func(p unikernel.Process, status uint32) { p.(*fakeProcess).end(status) },
			Break: s.hangUp,
		}
	})
}
