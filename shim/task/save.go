package task

// save ends the machine of a container that has exited, so that nothing of what
// it wrote is lost. Who is told of the exit finds it saved.
func (c *Container) save() {
	if c.disks != nil && c.disks.layer != nil {
		c.sandbox.Save(c.names.ID, c.exitReported())
	}
}
