package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"containerd-shim-uni/integration/leak"
	"containerd-shim-uni/integration/peer"
)

// Options say what lives and where.
type Options struct {
	Peer *peer.Peer
	// Checker took stock before.
	Checker *leak.Checker
	// Runtime is io.containerd.uni.v1, or another to compare with.
	Runtime string
	// Busybox and Hello are the references of two images that are there.
	Busybox, Hello string
	// Lives is how many there are, Workers how many at a time.
	Lives, Workers int
	Seed           uint64
	// Only, if not empty, are the kinds that are drawn.
	Only []string
	// Progress is told of each fault as it is found.
	Progress func(format string, args ...any)
}

// Fault is something that should not be.
type Fault struct {
	// What it is, a row of the table, such as "output cut off".
	What string
	// Kind and Life say where: Life is the container's name, empty for what
	// cannot be told.
	Kind, Life string
	Detail     string
}

// Report is what a run found.
type Report struct {
	Options
	Took   time.Duration
	Lives  map[string]int // by kind
	Faults []Fault
	// Events is how many were seen, Expected of how many containers they were
	// compared.
	Events, Compared int
	// Boots are the times from the call to the first output of hello, ascending.
	Boots []time.Duration
}

// soak is a run.
type soak struct {
	Options
	// restart is held for writing while containerd is away; calls hold it for
	// reading.
	restart sync.RWMutex
	events  *events

	mu     sync.Mutex
	report Report // guarded by mu
}

// Run lets the lives happen. The error is of what has nothing to do with them.
func Run(ctx context.Context, o Options) (Report, error) {
	s := &soak{Options: o, report: Report{Options: o, Lives: map[string]int{}}}
	begin := time.Now()
	s.events = watch(ctx, o.Peer)
	if err := s.events.ready(ctx, s.probe); err != nil {
		return s.report, err
	}
	kinds := kindsOf(o.Only)
	if len(kinds) == 0 {
		return s.report, fmt.Errorf("there are no kinds of lives named %s", strings.Join(o.Only, ", "))
	}
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range o.Workers {
		wg.Go(func() {
			for n := range numbers {
				s.live(ctx, n, kinds)
			}
		})
	}
	for n := 0; n < o.Lives && ctx.Err() == nil; n++ {
		numbers <- n
	}
	close(numbers)
	wg.Wait()
	s.compareEvents()
	s.leaks(ctx)
	s.report.Took = time.Since(begin)
	return s.report, ctx.Err()
}

// live lets one container live, by a lot that depends on the seed and its number.
func (s *soak) live(ctx context.Context, n int, kinds []kind) {
	lot := rand.New(rand.NewPCG(s.Seed, uint64(n)))
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	draw := lot.IntN(total)
	var k kind
	for _, k = range kinds {
		if draw -= k.weight; draw < 0 {
			break
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lifeTimeout)
	defer cancel()
	dir, err := os.MkdirTemp(s.Peer.Dir, "life")
	if err != nil {
		s.fault(Fault{"the test itself", k.name, "", err.Error()})
		return
	}
	defer os.RemoveAll(dir)
	l := &life{soak: s, Rand: lot, kind: k, id: "life" + strconv.Itoa(n), dir: dir, times: 1}
	s.mu.Lock()
	s.report.Lives[k.name]++
	s.mu.Unlock()
	gaps := s.events.gap()
	k.live(l, ctx)
	l.bury()
	if l.times > 0 && s.events.gap() == gaps {
		s.events.expect(l.id, k.name, l.times)
	} else {
		s.events.forget(l.id)
	}
}

func (s *soak) fault(f Fault) {
	s.mu.Lock()
	s.report.Faults = append(s.report.Faults, f)
	s.mu.Unlock()
	if s.Progress != nil {
		s.Progress("%s: %s %s: %s", f.What, f.Kind, f.Life, f.Detail)
	}
}

// leaks finds what is left. What ends by itself has leakTimeout for it.
func (s *soak) leaks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leakTimeout)
	defer cancel()
	for _, line := range s.Checker.Wait(ctx) {
		// "process 7: /bin/x", "stale socket /run/s", "mount /x"
		what, _, _ := strings.Cut(line, " /")
		if strings.HasPrefix(line, "process") {
			what = "process " + program(line)
		}
		s.fault(Fault{"left behind: " + what, "", "", line})
	}
}

// program is that of a process in a line of the checker's.
func program(line string) string {
	_, command, _ := strings.Cut(line, ": ")
	name, _, _ := strings.Cut(command, " ")
	return filepath.Base(name)
}

// probe causes an event that shows that a subscription stands.
func (s *soak) probe(ctx context.Context, n int) {
	id := fmt.Sprintf("probe%d", n)
	s.Peer.Ctr(ctx, nil, "containers", "create", "--runtime", s.Runtime, s.Busybox, id)
	s.Peer.Ctr(ctx, nil, "containers", "delete", id)
}
