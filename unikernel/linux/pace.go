package linux

import "time"

// What a guest may cost. Handling a frame is the host's work and not in the
// machine's cgroup, so frames are taken at a limited rate; a guest that sends
// more waits, as on any full channel. An honest guest writes each frame to its
// port by itself, which leaves the machine each time: 10,000 frames of the
// largest size a second are 300 MB.
const (
	maxFrames  = 50_000 // a second
	paceStep   = 20 * time.Millisecond
	paceFrames = int(maxFrames * paceStep / time.Second)
)

// pace says when to wait so that no step has more frames than it may.
type pace struct {
	left int       // frames in this step
	next time.Time // when the next one begins
}

// pause returns how long to wait before another frame.
func (p *pace) pause(now func() time.Time) time.Duration {
	if p.left > 0 {
		p.left--
		return 0
	}
	t := now()
	wait := max(p.next.Sub(t), 0)
	p.next = t.Add(wait + paceStep)
	p.left = paceFrames - 1
	return wait
}
