package integration

import (
	"testing"
)

// TestFilesAcrossStops: what a container writes is there when it starts again,
// however it ended.
func TestFilesAcrossStops(t *testing.T) {
	s := newSite(t)
	s.up(t, []string{"--name", "box"}, "sh", "-c", "echo run >>/var/count; wc -l </var/count; exec sleep 1000")
	ran := func(want string) {
		t.Helper()
		eventually(t, "it has run", func() bool { return s.do(t, "logs", "box") == want })
	}
	ran("1\n")
	s.do(t, "stop", "-t", "1", "box")
	s.do(t, "start", "box")
	ran("1\n2\n")
	s.do(t, "kill", "box")
	eventually(t, "the container has ended", func() bool {
		return s.do(t, "inspect", "-f", "{{.State.Status}}", "box") == "exited\n"
	})
	s.do(t, "start", "box")
	ran("1\n2\n3\n")
	s.do(t, "rm", "-f", "box")
}
