package task

import (
	"errors"
	"slices"
	"testing"
)

// TestPodCPUSets: the machine runs on the processors of all its containers' sets, and on
// all that the pod has while one has none.
func TestPodCPUSets(t *testing.T) {
	b := newPodBench(t)
	own, err := b.Container("c")
	if err != nil {
		t.Fatal(err)
	}
	p := own.place.(*keeper).pod
	p.cpus = "0-7"
	one, two := &Container{}, &Container{}
	told := func() (sets []string) {
		for _, u := range b.host.group.Updates {
			sets = append(sets, u.Cpus)
		}
		return sets
	}
	if err := errors.Join(p.pin(one, "0-1"), p.pin(two, "2,3"), p.pin(two, "1-2"), p.pin(one, "0-1")); err != nil {
		t.Fatal(err)
	}
	p.unpin(one)
	if err := p.pin(one, ""); err != nil {
		t.Fatal(err)
	}
	p.unpin(two)
	if want := []string{"0-1", "0-1,2,3", "0-1,1-2", "1-2", "0-7"}; !slices.Equal(told(), want) {
		t.Errorf("the machine was moved to %q, want %q", told(), want)
	}
	b.host.group.Err = errors.New("no such processor")
	if err := p.pin(one, "99"); !errors.Is(err, b.host.group.Err) || p.sets[one] != "" {
		t.Errorf("refused: %v, and then %q", err, p.sets[one])
	}
}
