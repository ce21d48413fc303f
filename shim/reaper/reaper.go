package reaper

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Subreaper makes this process the one that orphaned descendants fall to.
func Subreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// grace is how long an orphan that ended is left to whoever may be about to
// wait for it: a program that makes itself a daemon leaves the session too, and
// has a parent that waits.
const grace = time.Second

// Run waits for orphans some time after they ended, until the context ends.
func Run(ctx context.Context) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGCHLD)
	defer signal.Stop(changed)
	var r Reaper
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		for more := true; more; {
			more = r.Look()
			select {
			case <-ctx.Done():
				return
			case <-time.After(grace):
			}
		}
	}
}

// Reaper remembers which orphans had ended when it last looked.
type Reaper struct{ ended map[int]bool }

// Look waits, without blocking, for the orphans that had ended at the last
// look already, and says whether it saw others.
func (r *Reaper) Look() (more bool) {
	own, err := unix.Getsid(0)
	if err != nil {
		return false
	}
	ended := map[int]bool{}
	for _, pid := range childPids() {
		if sid, err := unix.Getsid(pid); err != nil || sid == own || !zombie(pid) {
			continue
		}
		if r.ended[pid] {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		} else {
			ended[pid] = true
		}
	}
	r.ended = ended
	return len(ended) > 0
}

// zombie says whether a process has ended and nobody has waited for it: its
// state is the field after its name, which may hold anything (proc(5), stat).
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	end := bytes.LastIndexByte(stat, ')')
	return end >= 0 && bytes.HasPrefix(stat[end+1:], []byte(" Z"))
}

// childPids lists the children of all our threads, ended ones too (proc(5),
// /proc/pid/task/tid/children).
func childPids() []int {
	const dir = "/proc/self/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var pids []int
	for _, t := range tasks {
		data, err := os.ReadFile(dir + "/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
