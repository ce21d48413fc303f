package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A process that computes is never idle, however little it gets; one that
// sleeps is, after a while.
func TestAwaitIdle(t *testing.T) {
	defer func(d time.Duration) { idlePatience = d }(idlePatience)
	idlePatience = 200 * time.Millisecond

	for _, tt := range []struct {
		name string
		args []string
		idle bool
	}{
		{"sleeps", []string{"sleep", "1000"}, true},
		{"computes", []string{"sh", "-c", "while :; do :; done"}, false},
	} {
		cmd := exec.Command(tt.args[0], tt.args[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p := noProcess()
		p.adopt(cmd.Process.Pid)
		limit := 20 * time.Second
		if !tt.idle {
			limit = 5 * idlePatience
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		idle := false
		awaitIdle(ctx, p.activity, func() { idle = true })
		cancel()
		if idle != tt.idle {
			t.Errorf("a process that %s: idle %t", tt.name, idle)
		}
		p.close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func TestActivityOfNobody(t *testing.T) {
	if _, _, err := (&process{pid: 1 << 30}).activity(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	awaitIdle(t.Context(), func() (time.Duration, bool, error) { return 0, false, os.ErrNotExist }, func() { t.Error("idle, for all that is known") })
}
