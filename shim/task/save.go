package task

import (
	"context"
)

// save ends the machine of a container that has exited, so that nothing of what
// it wrote is lost. Who is told of the exit finds it saved.
func (c *Container) save() {
	if c.disks == nil || c.disks.layer == nil {
		return
	}
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if session != nil && c.exitReported() {
		ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
		defer cancel()
		if err := session.Shutdown(ctx); err != nil {
			c.log().WithError(err).Warn("the guest did not say that its disk is complete: what it wrote last may be missing")
		}
	}
	c.destroy()
}
