package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// lockedBuffer is a buffer a command writes to while the test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestFileLogger(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		log := filepath.Join(t.TempDir(), "log")
		h.detach(t, container{flags: []string{"--log-uri", "file://" + log}}, "sh", "-c", "echo out; sleep 0.2; echo err >&2; exit 3")
		if code := h.reap(t, "c1"); code != 3 {
			t.Errorf("status %d, want 3", code)
		}
		if got, err := os.ReadFile(log); string(got) != "out\nerr\n" {
			t.Errorf("the log holds %q, %v", got, err)
		}
	})
}

// A binary logger reads the streams from descriptors 3 and 4 and closes 5 when
// it is ready. This one then takes its time.
const logger = `#!/bin/sh
dir=$(dirname "$0")
(sleep 1; exec cat) <&3 >"$dir/out" 5>&- &
(sleep 1; exec cat) <&4 >"$dir/err" 5>&- &
echo "$CONTAINER_NAMESPACE $CONTAINER_ID" >"$dir/names"
exec 5>&-
wait
`

// A slow logger gets every byte, more than any pipe holds.
func TestBinaryLogger(t *testing.T) {
	var numbers strings.Builder
	for i := range 100000 {
		fmt.Fprintln(&numbers, i+1)
	}
	on(t, func(t *testing.T, h *host) {
		dir := t.TempDir()
		program := filepath.Join(dir, "logger")
		if err := os.WriteFile(program, []byte(logger), 0o755); err != nil {
			t.Fatal(err)
		}
		h.detach(t, container{flags: []string{"--log-uri", "binary://" + program}}, "sh", "-c", "seq 1 100000; echo err >&2; exit 3")
		if code := h.reap(t, "c1"); code != 3 {
			t.Errorf("status %d, want 3", code)
		}
		for file, want := range map[string]string{"out": numbers.String(), "err": "err\n", "names": h.Namespace + " c1\n"} {
			eventually(t, file+" is whole", func() bool {
				got, err := os.ReadFile(filepath.Join(dir, file))
				return err == nil && string(got) == want
			})
		}
	})
}

// Nobody reads what ctr prints; the exit is still reported.
func TestReaderThatNeverReads(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := h.Command(t.Context(), container{}.args([]string{"sh", "-c", "yes & sleep 1; exit 4"})...)
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		h.await(t, "c1", "STOPPED")
		// ctr waits for the reader itself: give it one that is gone.
		r.Close()
		_ = cmd.Wait() // its status tells of the closed pipe
		eventually(t, "ctr removed the container", func() bool {
			return !strings.Contains(h.ok(t, "containers", "ls", "-q"), "c1")
		})
	})
}
