package libvirt

import "slices"

// phase is where a machine is in its life, as the driver knows it. See the
// package's comment.
type phase int

const (
	starting  phase = iota // libvirt was asked; events of the name are another's
	running                // its QEMU is held, events are its own
	told                   // an event said that it ended; QEMU's status will say more
	dead                   // QEMU has ended; an event will say how
	condemned              // Destroy was called
	over                   // how it ended is known
	clearing               // libvirt is being told to forget it
	cleared                // libvirt was told
)

var phases = []phase{starting, running, told, dead, condemned, over, clearing, cleared}

func (p phase) String() string {
	return [...]string{"starting", "running", "told", "dead", "condemned", "over", "clearing", "cleared"}[p]
}

// happening is what befalls a machine.
type happening string

const (
	seen    happening = "seen"    // libvirt or we see it run
	hinted  happening = "hinted"  // an event of its end, where QEMU's status may say more
	died    happening = "died"    // QEMU has ended, with a status that is not the guest's
	condemn happening = "condemn" // Destroy
	ends    happening = "ends"    // it is known how it ended
	clears  happening = "clears"  // libvirt is told
	forgot  happening = "forgot"  // and was
)

// course says which phase follows when something happens in a phase. What it
// does not list changes nothing.
var course = map[happening]map[phase]phase{
	seen:    {starting: running},
	hinted:  {running: told},
	died:    {running: dead, told: over},
	condemn: {running: condemned, told: condemned, dead: condemned},
	ends:    {starting: over, running: over, told: over, dead: over, condemned: over},
	clears:  {over: clearing},
	forgot:  {clearing: cleared},
}

// passes moves the machine to the phase that follows h, and says whether there
// is one. The caller holds Driver.mu.
func (dom *domain) passes(h happening) bool {
	to, ok := course[h][dom.phase]
	if ok {
		dom.phase = to
	}
	return ok
}

// is says whether the machine is in one of the phases. The caller holds Driver.mu.
func (dom *domain) is(list ...phase) bool { return slices.Contains(list, dom.phase) }
