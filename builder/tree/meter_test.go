package tree

import (
	"errors"
	"strings"
	"testing"
)

// A meter lets no more pass than its bounds, however the files are made up.
func TestMeter(t *testing.T) {
	for name, tt := range map[string]struct {
		node Node
		name string
		most int // how many pass
	}{
		"files":      {Node{}, "a", maxMemory / (nodeCost + nameCost)},
		"links":      {Node{Target: strings.Repeat("x", 4000)}, "a", maxMemory / 4000},
		"names":      {Node{}, strings.Repeat("x", 255), maxMemory / 255},
		"attributes": {Node{Xattrs: []Xattr{{"user.x", strings.Repeat("x", 1<<16)}}}, "a", maxXattrs >> 16},
	} {
		var m Meter
		var err error
		n := 0
		for ; err == nil; n++ {
			if err = m.Node(&tt.node); err == nil {
				err = m.Name(tt.name)
			}
		}
		if !errors.Is(err, ErrTooLarge) || n > tt.most+1 {
			t.Errorf("%s: %d, at most %d are right: %v", name, n, tt.most, err)
		}
		if n < 1000 {
			t.Errorf("%s: only %d pass", name, n)
		}
	}
}

// An image of half a million files, more than those in use have, passes.
func TestMeterOfLargeImage(t *testing.T) {
	var m Meter
	for range 500_000 {
		if err := errors.Join(m.Node(&Node{}), m.Name("a-file-name-of-thirty-two-bytes.")); err != nil {
			t.Fatal(err)
		}
	}
}
