package main

import (
	"time"

	"containerd-shim-uni/unikernel/linux/wire"
)

// pauseTimeout is how long the processes of a container may take to stand still that is
// paused: one that waits in the kernel for a disk or for the host does not.
const pauseTimeout = 5 * time.Second

// pause lets no process of the container run, also of those that are being started, or
// lets them go on (cgroup-v2.rst of the kernel, cgroup.freeze). SIGKILL ends them in any
// case. Those that do not stand still go on.
func (g *cgroup) pause(paused bool) error {
	g.freezing.Lock()
	defer g.freezing.Unlock()
	before := g.paused
	g.paused = paused
	if err := g.settle(); err != nil {
		g.paused = before
		return err
	}
	if !paused || waitFor(pauseTimeout, func() bool { return g.event("frozen 1") }) {
		return nil
	}
	g.paused = before
	g.settle()
	return &failure{wire.CodeInternal, "its processes do not stand still: one waits in the kernel, for a disk or for the host"}
}

// settle has the kernel do what pause wants. The caller holds freezing.
func (g *cgroup) settle() error {
	text := "0"
	if g.paused {
		text = "1"
	}
	return g.write("cgroup.freeze", text)
}
