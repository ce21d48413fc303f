package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"strings"
	"sync"
	"time"

	"containerd-shim-uni/integration/peer"
)

// topics are the events of a task that it has once each.
var topics = []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}

// events listens to containerd's.
type events struct {
	peer *peer.Peer
	stop func()

	mu       sync.Mutex
	seen     map[string]map[string]int // by container, by topic
	probes   int                       // deletions of containers seen
	total    int
	gaps     int // times that nobody listened
	expected map[string]expectation
}

type expectation struct {
	kind  string
	times int
	since time.Time // when the container was gone
}

// underWay is how long before containerd's end a container must be gone for its
// last events to have been told: a shim sends them behind its answers.
const underWay = 10 * time.Second

// watch begins to listen.
func watch(ctx context.Context, p *peer.Peer) *events {
	e := &events{peer: p, seen: map[string]map[string]int{}, expected: map[string]expectation{}}
	e.listen(ctx)
	return e
}

// listen subscribes. It ends with the context or containerd.
func (e *events) listen(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := e.peer.Command(ctx, "events")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		e.stop = func() {}
		return // ready says so
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.read(out)
		_ = cmd.Wait() // it was killed, or containerd ended
	}()
	e.stop = func() { cancel(); <-done }
}

func (e *events) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		e.line(lines.Text())
	}
}

// line takes in one of "ctr events": time, namespace, topic, JSON.
func (e *events) line(text string) {
	brace := strings.IndexByte(text, '{')
	if brace < 0 {
		return
	}
	fields := strings.Fields(text[:brace])
	if len(fields) == 0 {
		return
	}
	topic := fields[len(fields)-1]
	e.mu.Lock()
	defer e.mu.Unlock()
	if topic == "/containers/delete" {
		e.probes++
	}
	var body struct {
		Container string `json:"container_id"`
		ID        string `json:"id"`
	}
	if !strings.HasPrefix(topic, "/tasks/") || json.Unmarshal([]byte(text[brace:]), &body) != nil {
		return
	}
	e.total++
	if topic == "/tasks/exit" && body.ID != body.Container {
		return // of an exec
	}
	if e.seen[body.Container] == nil {
		e.seen[body.Container] = map[string]int{}
	}
	e.seen[body.Container][topic]++
}

// ready returns when events arrive: a subscription has no answer.
func (e *events) ready(ctx context.Context, probe func(context.Context, int)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	e.mu.Lock()
	before := e.probes
	e.mu.Unlock()
	for n := 0; ; n++ {
		probe(ctx, n)
		e.mu.Lock()
		now := e.probes
		e.mu.Unlock()
		if now > before {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no events from containerd within %v", callTimeout)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// again listens to a containerd that was started anew. What happened meanwhile
// is not known.
func (e *events) again(ctx context.Context, probe func(context.Context, int)) error {
	e.stop()
	e.mu.Lock()
	e.gaps++
	for id, want := range e.expected {
		if time.Since(want.since) < underWay {
			delete(e.expected, id)
		}
	}
	e.mu.Unlock()
	e.listen(ctx)
	return e.ready(ctx, probe)
}

// gap is the number of times that nobody listened so far: a life that saw it
// change cannot be compared.
func (e *events) gap() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gaps
}

// expect says that a container, which is gone, had each event this many times.
func (e *events) expect(id, kind string, times int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expected[id] = expectation{kind, times, time.Now()}
}

func (e *events) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.expected, id)
}

// compareEvents waits until no more come, and compares.
func (s *soak) compareEvents() {
	e := s.events
	for last := -1; ; {
		e.mu.Lock()
		now := e.total
		e.mu.Unlock()
		if now == last {
			break
		}
		last = now
		time.Sleep(3 * time.Second)
	}
	e.stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	s.report.Events, s.report.Compared = e.total, len(e.expected)
	for id, want := range e.expected {
		for _, topic := range topics {
			switch got := e.seen[id][topic]; {
			case got < want.times:
				s.fault(Fault{"event lost: " + topic, want.kind, id, fmt.Sprintf("%d of %d", got, want.times)})
			case got > want.times:
				s.fault(Fault{"event doubled: " + topic, want.kind, id, fmt.Sprintf("%d of %d", got, want.times)})
			}
		}
	}
}
