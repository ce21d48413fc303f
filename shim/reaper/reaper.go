package reaper

import (
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

// grace is how long an orphan that ended is left to whoever knows of it and
// wants its exit status.
const grace = 250 * time.Millisecond

// Run waits for orphans after they ended, until the context ends.
func Run(ctx context.Context) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	for {
		select {
		case <-ctx.Done():
			return
		case <-children:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(grace):
		}
		Reap()
	}
}

// Reap waits, without blocking, for every orphan that has ended.
func Reap() {
	own, err := unix.Getsid(0)
	if err != nil {
		return
	}
	for _, pid := range childPids() {
		// A child between fork and setsid is still in our session, so this
		// never takes one from its waiter.
		if sid, err := unix.Getsid(pid); err == nil && sid != own {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
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
