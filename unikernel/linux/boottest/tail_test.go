package boottest

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// lives is how often a test repeats what fails seldom: UNI_SOAK times as often
// as by default.
func lives(t *testing.T, byDefault int) int {
	t.Helper()
	times := 1
	if s := os.Getenv("UNI_SOAK"); s != "" {
		var err error
		if times, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	return times * byDefault
}

// wantTail fails the test if the output of "seq -s ' ' 5000" on a terminal is cut.
func wantTail(t *testing.T, out string) {
	t.Helper()
	const size = 9*2 + 90*3 + 900*4 + 4001*5 + len("\r\n") - len(" ")
	if len(out) != size || !strings.HasSuffix(out, " 4999 5000\r\n") {
		t.Errorf("%d bytes of %d, the last are %q", len(out), size, out[max(0, len(out)-20):])
	}
}

// TestTerminalIsReadToItsEnd: the last that a process writes to its terminal
// before it exits is more than the terminal's buffers hold, and all of it comes.
func TestTerminalIsReadToItsEnd(t *testing.T) {
	needQEMU(t)
	root := image(t)
	t.Run("exec", func(t *testing.T) {
		a := app("sleep", "100000")
		m := boot(t, "microvm", root, a)
		m.run(a, unikernel.Stdio{})
		for range lives(t, 150) {
			var out lockedBuffer
			p := process("seq", "-s", " ", "5000")
			p.Terminal = true
			proc, err := m.session.Exec(m.context(), "x", p, unikernel.Stdio{Stdin: strings.NewReader("\x04"), Stdout: &out})
			if err != nil {
				t.Fatal(err)
			}
			m.await(proc)
			wantTail(t, out.String())
		}
	})
	t.Run("container", func(t *testing.T) {
		for range lives(t, 3) {
			a := app("sh", "-c", `seq -s " " 5000`)
			a.Spec.Process.Terminal = true
			m := boot(t, "microvm", root, a)
			var out lockedBuffer
			m.await(m.run(a, unikernel.Stdio{Stdout: &out}))
			wantTail(t, out.String())
			m.finish()
		}
	})
}

// TestTerminalIsReopened: a process that closes its terminal and opens it again
// has lost nothing.
func TestTerminalIsReopened(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "echo one; exec </dev/null >/dev/null 2>&1; sleep 0.5; exec >/dev/tty; echo two; exit 4")
	a.Spec.Process.Terminal = true
	m := boot(t, "microvm", image(t), a)
	var out lockedBuffer
	if got := m.await(m.run(a, unikernel.Stdio{Stdout: &out})); got != 4 || out.String() != "one\r\ntwo\r\n" {
		t.Errorf("status %d, output %q", got, out.String())
	}
	m.finish()
}
