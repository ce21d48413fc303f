package leak

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Scope tells what belongs to the run that is checked.
type Scope struct {
	// Namespace is the containerd namespace; it is unique on the host.
	Namespace string
	// Cgroup is a name in the paths of the run's cgroups; empty if the namespace is.
	Cgroup string
	// Dir is the directory below which the run keeps everything.
	Dir string
	// StateDir and DataDir are the runtime's storage directories.
	StateDir, DataDir string
	// Processes lists the processes of the run that are still there.
	Processes func() []int
	// Mounts lists the mount points of the run that are still there.
	Mounts func() ([]string, error)
}

// socketDir is where containerd's shims of every version put their sockets.
const socketDir = "/run/containerd/s"

// Checker remembers what was there before a container, to tell it from what
// the container left.
type Checker struct {
	Scope
	sockets, links, before []string
}

// NewChecker takes stock of the host.
func NewChecker(s Scope) *Checker {
	c := &Checker{Scope: s, sockets: names(socketDir), links: names("/sys/class/net")}
	c.before = c.list()
	return c
}

// Wait returns when nothing is left, or what is left when the context ends:
// shims and machines end a moment after containerd has forgotten them.
func (c *Checker) Wait(ctx context.Context) []string {
	for {
		left := c.Left()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return left
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Left lists what is there now and was not before, one line each, for a person
// to read.
func (c *Checker) Left() []string {
	return slices.DeleteFunc(c.list(), func(l string) bool { return slices.Contains(c.before, l) })
}

func (c *Checker) list() []string {
	var left []string
	for _, pid := range c.Processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // empty when it just ended
		left = append(left, fmt.Sprintf("process %d: %.160s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
	}
	mounts, err := c.Mounts()
	if err != nil {
		left = append(left, "mounts: "+err.Error())
	}
	left = appendAll(left, "mount ", mounts)
	left = appendAll(left, "loop device ", loops(c.Dir))
	left = appendAll(left, "cgroup ", cgroups(cmp.Or(c.Cgroup, c.Namespace)))
	left = appendAll(left, "network link ", c.newLinks())
	left = appendAll(left, "stale socket ", c.staleSockets())
	left = appendAll(left, "user of a machine ", users(c.Namespace))
	left = appendAll(left, "state of a container ", containers(c.StateDir))
	return appendAll(left, "data of a container ", below(filepath.Join(c.DataDir, "containers")))
}

// users are those that machines of a namespace have of their own.
func users(namespace string) []string {
	const dir = "/var/lib/uni/identities"
	var taken []string
	for _, uid := range names(dir) {
		said, err := os.ReadFile(filepath.Join(dir, uid))
		if err == nil && strings.Contains(string(said), "uni-"+namespace+"--") {
			taken = append(taken, uid)
		}
	}
	return taken
}

func appendAll(to []string, what string, names []string) []string {
	for _, n := range names {
		to = append(to, what+n)
	}
	return to
}

// names lists a directory; one that is missing is empty.
func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func below(dir string) []string {
	var all []string
	for _, n := range names(dir) {
		all = append(all, filepath.Join(dir, n))
	}
	return all
}

// containers are the directories of the state directory that are named like
// unikernel.Key.
func containers(stateDir string) []string {
	return slices.DeleteFunc(below(stateDir), func(p string) bool {
		n := filepath.Base(p)
		return len(n) != 20 || strings.Trim(n, "0123456789abcdef") != ""
	})
}

// loops are the loop devices whose file is below dir.
func loops(dir string) []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is well formed
	var found []string
	for _, f := range files {
		if file, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(file), dir+"/") {
			found = append(found, strings.Split(f, "/")[3]+" on "+strings.TrimSpace(string(file)))
		}
	}
	return found
}

// cgroups are the directories named after the namespace or below one that is.
// One that bears just its name is shared by its containers: it stays where runc made
// it, and goes with the last of them where this runtime did.
func cgroups(namespace string) []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(p, namespace) && (d.Name() != namespace || emptied(p)) {
			found = append(found, p)
		}
		return nil // cgroups of others come and go
	})
	return found
}

// parentMark is the attribute by which the runtime knows the parents that it made.
const parentMark = "trusted.uni"

// emptied says whether a parent that the runtime made has no cgroup in it any more.
func emptied(dir string) bool {
	if _, err := unix.Getxattr(dir, parentMark, nil); err != nil {
		return false
	}
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, fs.DirEntry.IsDir)
}

// newLinks are network links that look like ours and were not there before.
func (c *Checker) newLinks() []string {
	return slices.DeleteFunc(names("/sys/class/net"), func(n string) bool {
		ours := strings.HasPrefix(n, "uni") || strings.HasPrefix(n, "tap")
		return !ours || slices.Contains(c.links, n)
	})
}

// staleSockets are new files in containerd's directory of shim sockets that
// nobody listens on. One that has a listener is a process, which is found as such.
func (c *Checker) staleSockets() []string {
	listening, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return []string{err.Error()}
	}
	return slices.DeleteFunc(below(socketDir), func(p string) bool {
		return slices.Contains(c.sockets, filepath.Base(p)) || strings.Contains(string(listening), p)
	})
}
