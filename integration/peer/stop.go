package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stop ends every task, then containerd, then whatever process of this peer is
// still there, unmounts what is mounted below its directory, and removes the cgroup of
// its namespace. The files stay for whoever made the directory.
func (p *Peer) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p.RemoveAll(ctx)
	errs := []error{p.Kill(syscall.SIGTERM)}
	for _, pid := range p.Processes() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %d: %w", pid, err))
		}
	}
	p.removeCgroups()
	return errors.Join(append(errs, p.unmount())...)
}

// removeCgroups removes the cgroups that are named after the namespace, which runc
// leaves when it has made them. What is in use stays, as that of pods' namespace.
func (p *Peer) removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(filepath.Join(pattern, p.Namespace)) // the pattern is well formed
		for _, dir := range dirs {
			_ = os.Remove(dir) // a cgroup with one below it or a process in it is not removed
		}
	}
}

// RemoveAll kills and removes every container, as far as containerd can.
func (p *Peer) RemoveAll(ctx context.Context) {
	for _, id := range strings.Fields(p.Ctr(ctx, nil, "tasks", "ls", "-q").Stdout) {
		p.Ctr(ctx, nil, "tasks", "delete", "-f", id)
	}
	for _, id := range strings.Fields(p.Ctr(ctx, nil, "containers", "ls", "-q").Stdout) {
		p.Ctr(ctx, nil, "containers", "delete", id)
	}
}

// Processes are the ids of the processes whose command line names this peer's
// directory, its namespace (a domain's name holds it) or one of its Marks;
// containerd itself is not one of them. Pods' namespace is everybody's: it tells
// nothing.
func (p *Peer) Processes() []int {
	var pids []int
	marks := append([]string{p.Dir}, p.Marks...)
	if p.CRI == nil {
		marks = append(marks, p.Namespace)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == os.Getpid() || pid == p.Pid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(line) == 0 {
			continue // it ended meanwhile, or is a zombie, which holds nothing
		}
		if slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(string(line), m) }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmount removes every mount below the directory, the last one first.
func (p *Peer) unmount() error {
	points, err := mounts("self", p.Dir)
	if err != nil {
		return err
	}
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", points[i], err)
		}
	}
	return nil
}

// Mounts lists what is mounted below the peer's directory and its Marks that
// are paths, as containerd sees it, in the order it was made.
func (p *Peer) Mounts() ([]string, error) {
	process := "self"
	if len(p.Wrap) > 0 { // perhaps in a mount namespace of its own
		process = strconv.Itoa(p.Pid())
	}
	return mounts(process, append([]string{p.Dir}, p.Marks...)...)
}

func mounts(process string, dirs ...string) ([]string, error) {
	info, err := os.ReadFile(filepath.Join("/proc", process, "mountinfo"))
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(info)) {
		f := strings.Fields(line)
		if len(f) > 4 && slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(f[4], d+"/") }) {
			points = append(points, f[4])
		}
	}
	return points, nil
}
