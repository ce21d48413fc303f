package task

import (
	"context"
	"strings"
	"time"

	"containerd-shim-uni/unikernel"
)

// adviceTimeout bounds reading a disk for advice.
const adviceTimeout = 2 * time.Second

// advice is what to do about a program that could not be started, or failed; it
// follows the guest's own words. What bind mounts bring is not on the disk: no
// advice is better than a wrong one.
func (c *Container) advice() string {
	if c.disks == nil {
		return ""
	}
	for _, s := range c.app.Shares {
		if !strings.HasPrefix(s.Mount.Destination, "/etc/") {
			return ""
		}
	}
	root := unikernel.Disk{Path: c.names.root(), Format: c.rootFormat}
	if c.plan.Disk != nil {
		root.Path = c.names.bootDisk()
	}
	ctx, cancel := context.WithTimeout(context.Background(), adviceTimeout)
	defer cancel()
	p := c.app.Spec.Process
	return c.disks.Advise(ctx, c.guest.Name(), root, p.Args, p.Env, p.Cwd)
}

// adviseFailed logs advice about a program that failed on a guest where it may
// be the guest's fault: one that runs a single process cannot tell in advance
// whether a program will start another.
func (c *Container) adviseFailed(status uint32) {
	c.mu.Lock()
	killed := c.killed
	c.mu.Unlock()
	if c.plan.Disk == nil || status == 0 || killed {
		return
	}
	if text := c.advice(); text != "" {
		c.log().WithField(fieldStatus, status).Warn("the program failed, perhaps for lack of what the guest " + c.guest.Name() + " does not have: " + text)
	}
}
