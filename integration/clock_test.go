package integration

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// pauseLength is much longer than a clock may be wrong.
const pauseLength = 5 * time.Second

// A container's clock is the host's, whichever clock its kernel counts with: on
// hosts where it has a choice, that is KVM's unless it is told otherwise.
func TestContainerClock(t *testing.T) {
	uniOnly(t)
	onNewest(t, func(t *testing.T, h *host) {
		for _, source := range []string{"", "tsc"} {
			h.clock(t, source)
		}
	})
}

// clock looks at the clock after the start and after a pause.
func (h *host) clock(t *testing.T, source string) {
	t.Helper()
	c := container{}
	if source != "" {
		c.flags = []string{"--annotation", "io.containerd.uni.kernel-args=clocksource=" + source}
	}
	h.detach(t, c, "sleep", "1000")
	used := h.inContainer(t, "source", "cat", "/sys/devices/system/clocksource/clocksource0/current_clocksource")
	t.Logf("clock source %s", used)
	h.sameTime(t, used+", started", "e1")
	h.ok(t, "tasks", "pause", "c1")
	time.Sleep(pauseLength)
	h.ok(t, "tasks", "resume", "c1")
	h.sameTime(t, used+", paused and resumed", "e2")
	h.remove(t, "c1")
}

// inContainer is what a command prints in c1, without the line's end.
func (h *host) inContainer(t *testing.T, exec string, command ...string) string {
	t.Helper()
	return strings.TrimSpace(h.ok(t, append([]string{"tasks", "exec", "--exec-id", exec, "c1"}, command...)...))
}

// sameTime fails the test unless the container's time lies between the host's
// before and after the question. Its seconds are whole ones.
func (h *host) sameTime(t *testing.T, when, exec string) {
	t.Helper()
	before := time.Now().Unix()
	text := h.inContainer(t, exec, "date", "+%s")
	after := time.Now().Unix()
	if got, err := strconv.ParseInt(text, 10, 64); err != nil || got < before-1 || got > after+1 {
		t.Errorf("%s: the container's time is %s (%v), the host's was %d to %d", when, text, err, before, after)
	}
}
