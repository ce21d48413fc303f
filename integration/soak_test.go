package integration

import (
	"strings"
	"testing"

	"containerd-shim-uni/integration/soak"
)

// A short soak: some lives of every kind, three at a time. "make soak" is the
// long one, of other lives each time.
func TestSoak(t *testing.T) {
	h := hostOf(t, versions[len(versions)-1])
	h.watch(t)
	report, err := soak.Run(t.Context(), soak.Options{
		Peer: h.Peer, Checker: h.checker(), Runtime: world.runtime, Busybox: busybox, Hello: hello,
		Lives: 24, Workers: 3, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	report.Write(&table)
	t.Log("\n" + table.String())
	for _, f := range report.Faults {
		t.Errorf("%s: %s %s: %s", f.What, f.Kind, f.Life, f.Detail)
	}
}
