package soak

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Write prints the table.
func (r Report) Write(w io.Writer) {
	fmt.Fprintf(w, "%s, containerd %s, seed %d, %d at a time, %v\n\n", r.Runtime, r.Peer.Version, r.Seed, r.Workers, r.Took.Round(time.Second))
	by := map[string]map[string]int{} // faults by what and kind
	bad := map[string]map[string]bool{}
	for _, f := range r.Faults {
		if by[f.What] == nil {
			by[f.What] = map[string]int{}
		}
		by[f.What][f.Kind]++
		if bad[f.Kind] == nil {
			bad[f.Kind] = map[string]bool{}
		}
		bad[f.Kind][f.Life] = true
	}
	total := 0
	fmt.Fprintf(w, "%-22s %6s %6s\n", "life", "lived", "faulty")
	for _, k := range slices.Sorted(maps.Keys(r.Lives)) {
		fmt.Fprintf(w, "%-22s %6d %6d\n", k, r.Lives[k], len(bad[k]))
		total += r.Lives[k]
	}
	fmt.Fprintf(w, "%-22s %6d\n\n", "all", total)
	if n := len(r.Boots); n > 0 {
		fmt.Fprintf(w, "hello, from the call to its end: median %v, slowest %v of %d\n", r.Boots[n/2].Round(time.Millisecond), r.Boots[n-1].Round(time.Millisecond), n)
	}
	fmt.Fprintf(w, "%d events seen, compared for %d containers\n\n", r.Events, r.Compared)
	if len(r.Faults) == 0 {
		fmt.Fprintln(w, "no faults")
		return
	}
	fmt.Fprintf(w, "%-36s %6s  %s\n", "fault", "times", "where")
	for _, what := range slices.Sorted(maps.Keys(by)) {
		times, where := 0, ""
		for _, k := range slices.Sorted(maps.Keys(by[what])) {
			times += by[what][k]
			if k != "" {
				where += fmt.Sprintf("%s %d  ", k, by[what][k])
			}
		}
		fmt.Fprintf(w, "%-36s %6d  %s\n", what, times, where)
	}
}
