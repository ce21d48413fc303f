package tsc

import "testing"

func TestRate(t *testing.T) {
	const told = "processor\t: 0\ncpu MHz\t\t: 2445.428\ncpu MHz\t\t: 1.0\n"
	from := sample{ticks: 1000, at: 5000}
	for _, c := range []struct {
		name    string
		ticks   uint64 // after a tenth of a second
		cpuinfo string
		want    int
	}{
		{"the kernel's figure is exact", 244_550_000, told, 2_445_428},
		{"a scaled frequency is another thing", 300_001_000, told, 3_000_000},
		{"measured alone", 244_512_345, "", 2_445_100},
		{"nonsense in cpuinfo", 244_512_345, "cpu MHz : x\n", 2_445_100},
		{"a counter that stands still", 0, told, 0},
	} {
		if got := rate(from, sample{from.ticks + c.ticks, from.at + 100_000_000}, c.cpuinfo); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	if got := rate(from, from, told); got != 0 {
		t.Errorf("no time between: %d", got)
	}
}

// The counter and the clock agree over any interval, or there is no rate.
func TestKHz(t *testing.T) {
	khz := KHz()
	if khz == 0 {
		t.Log("this host's kernel does not trust its counter")
		return
	}
	from := take()
	for raw()-from.at < 50e6 {
	}
	if again := rate(from, take(), ""); again < khz-khz/1000 || again > khz+khz/1000 {
		t.Errorf("%d kHz, then %d", khz, again)
	}
}
