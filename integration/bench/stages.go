package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"containerd-shim-uni/unikernel"
)

// marks are the moments of one "ctr run" that can be seen from outside.
type marks struct {
	begin    time.Time // ctr is started
	state    time.Time // the shim made the container's state directory
	disks    time.Time // root disk and writable layer are there
	create   time.Time // event TaskCreate: the machine exists, paused
	start    time.Time // event TaskStart: the application runs
	output   time.Time // ctr printed the application's line
	exit     time.Time // event TaskExit
	gone     time.Time // event TaskDelete
	finished time.Time // ctr ended
}

// rows are the stages between two marks, in order.
var rows = []struct {
	name     string
	duration func(marks) time.Duration
}{
	{"ctr and containerd to the shim's create", func(m marks) time.Duration { return m.state.Sub(m.begin) }},
	{"disks (cached root, writable layer)", func(m marks) time.Duration { return m.disks.Sub(m.state) }},
	{"domain start through libvirt", func(m marks) time.Duration { return m.create.Sub(m.disks) }},
	{"boot, configuration, application's start", func(m marks) time.Duration { return m.start.Sub(m.create) }},
	{"application's exit to TaskExit", func(m marks) time.Duration { return m.exit.Sub(later(m.start, m.output)) }},
	{"clean-up to TaskDelete", func(m marks) time.Duration { return m.gone.Sub(m.exit) }},
	{"containerd and ctr to the end", func(m marks) time.Duration { return m.finished.Sub(m.gone) }},
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// stages measures single runs of the hello with everything watched.
func (b *bench) stages(ctx context.Context, runs int, t *table) error {
	events, err := b.events(ctx)
	if err != nil {
		return err
	}
	defer events.stop()
	took := make([][]time.Duration, len(rows))
	for range runs {
		m, err := b.watched(ctx, events)
		if err != nil {
			return err
		}
		for i, r := range rows {
			took[i] = append(took[i], r.duration(m))
		}
	}
	t.head(fmt.Sprintf("where the time goes (medians of %d, lowest)", runs))
	for i, r := range rows {
		t.ms(r.name, took[i])
	}
	return nil
}

// watched runs the hello once and notes the marks.
func (b *bench) watched(ctx context.Context, events *eventStream) (m marks, err error) {
	const id = "stages"
	key := unikernel.Key(b.Namespace, id)
	seen := make(chan [2]time.Time, 1)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		seen <- [2]time.Time{
			appears(watch, filepath.Join(b.state, key)),
			appears(watch, filepath.Join(b.data, "containers", key, "writable.ext4")),
		}
	}()

	cmd := b.Command(ctx, "run", "--rm", "--runtime", uni, hello, id)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return m, err
	}
	m.begin = time.Now()
	if err := cmd.Start(); err != nil {
		return m, err
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	m.output = time.Now()
	err = cmd.Wait()
	m.finished = time.Now()
	if err := errors.Join(err, readErr); err != nil || !strings.HasPrefix(line, "hello") {
		return m, fmt.Errorf("hello printed %q: %w: %s", line, err, errs.String())
	}
	files := <-seen
	m.state, m.disks = files[0], files[1]
	for topic, at := range map[string]*time.Time{
		"/tasks/create": &m.create, "/tasks/start": &m.start, "/tasks/exit": &m.exit, "/tasks/delete": &m.gone,
	} {
		if *at, err = events.next(ctx, topic); err != nil {
			return m, err
		}
	}
	return m, nil
}

// appears waits until a path exists and returns when that was seen, to the
// millisecond. The zero time means that the context ended before.
func appears(ctx context.Context, path string) time.Time {
	for ctx.Err() == nil {
		if _, err := os.Lstat(path); err == nil {
			return time.Now()
		}
		time.Sleep(time.Millisecond)
	}
	return time.Time{}
}
