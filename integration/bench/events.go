package main

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// eventStream is what "ctr events" prints: a time, the namespace, a topic and
// the event.
type eventStream struct {
	cmd   *exec.Cmd
	lines chan string
	early map[string][]time.Time // topics read while another was waited for
}

// eventTimeout bounds the wait for one event.
const eventTimeout = 30 * time.Second

// events subscribes; it returns when the subscription stands.
func (b *bench) events(ctx context.Context) (*eventStream, error) {
	s := &eventStream{cmd: b.Command(ctx, "events"), lines: make(chan string, 100), early: map[string][]time.Time{}}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			s.lines <- sc.Text()
		}
	}()
	// Nothing says that it stands but an event that arrives.
	for range 100 {
		for _, args := range [][]string{{"containers", "create", hello, "probe"}, {"containers", "delete", "probe"}} {
			if r := b.Ctr(ctx, nil, args...); r.Code != 0 {
				return nil, fmt.Errorf("probe for events: %s", r.Stderr)
			}
		}
		select {
		case <-s.lines:
			return s, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, fmt.Errorf("ctr events prints nothing")
}

func (s *eventStream) stop() {
	_ = s.cmd.Process.Kill() // it runs until then
	_ = s.cmd.Wait()
}

// next returns the time of the next event with a topic.
func (s *eventStream) next(ctx context.Context, topic string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	for len(s.early[topic]) == 0 {
		select {
		case line, ok := <-s.lines:
			if !ok {
				return time.Time{}, fmt.Errorf("ctr events ended before %s", topic)
			}
			if at, t, ok := parseEvent(line); ok {
				s.early[t] = append(s.early[t], at)
			}
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("no event %s: %w", topic, ctx.Err())
		}
	}
	at := s.early[topic][0]
	s.early[topic] = s.early[topic][1:]
	return at, nil
}

// parseEvent reads "2026-01-02 15:04:05.678 +0000 UTC NAMESPACE TOPIC {…}".
func parseEvent(line string) (at time.Time, topic string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 {
		return at, "", false
	}
	at, err := time.Parse("2006-01-02 15:04:05.999999999 -0700 MST", strings.Join(f[:4], " "))
	return at, f[5], err == nil
}
