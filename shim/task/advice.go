package task

import (
	"fmt"
	"strings"
)

// checkProgram refuses a container whose program is not there, in runc's words:
// runc too finds that out before the start.
func (cr *creation) checkProgram() error {
	p := cr.app.Spec.Process
	if len(p.Args) == 0 || cr.filesElsewhere() || !cr.disks.missing(p.Args, p.Env, p.Cwd) {
		return nil
	}
	text := "executable file not found in $PATH"
	if strings.Contains(p.Args[0], "/") {
		text = "stat " + p.Args[0] + ": no such file or directory"
	}
	// Not unikernel.ErrNotFound, which containerd takes for a container that
	// is not there.
	err := fmt.Errorf("OCI runtime create failed: unable to start container process: exec: %q: %s", p.Args[0], text)
	if advice := cr.advice(); advice != "" {
		err = fmt.Errorf("%w; %s", err, advice)
	}
	return err
}

// filesElsewhere says whether the program or what it needs may be in bind mounts or
// in the container's layer, and so not on the disk: no word is better than a wrong
// one.
func (c *Container) filesElsewhere() bool {
	for _, s := range c.app.Shares {
		if !strings.HasPrefix(s.Mount.Destination, "/etc/") {
			return true
		}
	}
	for _, v := range c.app.Volumes {
		if !strings.HasPrefix(v.Mount.Destination, "/etc/") {
			return true
		}
	}
	return c.disks.layered()
}

// advice is what to do about a program that could not be started, or failed; it
// follows the guest's own words.
func (c *Container) advice() string {
	if c.disks == nil || c.filesElsewhere() {
		return ""
	}
	root, ok := c.disks.root()
	if !ok {
		return ""
	}
	p := c.app.Spec.Process
	return c.disks.maker.Advise(c.cfg.Guest, root, p.Args, p.Env, p.Cwd)
}

// adviseFailed logs advice about a program that failed on a guest where it may
// be the guest's fault: one that runs a single process cannot tell in advance
// whether a program will start another.
func (c *Container) adviseFailed(status uint32) {
	if !c.plan.OneProcess || status == 0 || c.wasKilled() {
		return
	}
	if text := c.advice(); text != "" {
		c.log().WithField(fieldStatus, status).Warn("the program failed, perhaps for lack of what the guest " + c.guest.Name() + " does not have: " + text)
	}
}
