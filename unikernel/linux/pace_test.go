package linux

import (
	"testing"
	"time"

	"containerd-shim-uni/unikernel/linux/wire"
)

// TestPace: however frames come, there are no more in a second than the bound
// and one step's, and a guest that sends few never waits.
func TestPace(t *testing.T) {
	for name, every := range map[string]time.Duration{"flood": 0, "twice too fast": time.Second / (2 * maxFrames), "slow": time.Millisecond} {
		var p pace
		clock := time.Unix(1000, 0)
		start, waited, frames := clock, time.Duration(0), 0
		for clock.Sub(start) < 10*time.Second && frames < 20*maxFrames {
			wait := p.pause(func() time.Time { return clock })
			waited += wait
			clock = clock.Add(wait + every)
			frames++
		}
		if most := 10*maxFrames + paceFrames; frames > most {
			t.Errorf("%s: %d frames in ten seconds, at most %d are allowed", name, frames, most)
		}
		if name == "slow" && waited > 0 {
			t.Errorf("%s: waited %v", name, waited)
		}
		if name != "slow" && frames < 9*maxFrames {
			t.Errorf("%s: %d frames only", name, frames)
		}
	}
}

// BenchmarkFlood measures what the host pays for the cheapest frames that a
// guest may send without end: ns/op is the least time for one.
func BenchmarkFlood(b *testing.B) {
	_, g := attach(b)
	frame := wire.AppendFrame(nil, wire.KindOOM, 0, wire.OOM{Kills: 1}.Encode())
	var many []byte
	for range 3000 {
		many = append(many, frame...)
	}
	b.ResetTimer()
	for sent := 0; sent < b.N; sent += 3000 {
		g.conn.Write(many)
	}
}
