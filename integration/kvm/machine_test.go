package kvm

import (
	"strings"
	"testing"
)

// Most rows want a processor as it is emulated, in real time; an invariant TSC
// is claimed only by a machine whose clock is counted.
func TestArgs(t *testing.T) {
	plain := strings.Join(Options{CPUs: 2}.args("share", "console"), " ")
	invariant := strings.Join(Options{CPUs: 1, InvariantTSC: true}.args("share", "console"), " ")
	for _, word := range []string{"+invtsc", "x-force-features", "-icount", "thread=single", "tsc=reliable"} {
		if strings.Contains(plain, word) {
			t.Errorf("the usual machine has %s: %s", word, plain)
		}
		if !strings.Contains(invariant, word) {
			t.Errorf("the machine with an invariant TSC has no %s: %s", word, invariant)
		}
	}
}
