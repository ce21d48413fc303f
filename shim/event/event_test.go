package event

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// fakeSink fails as often as told, then takes events.
type fakeSink struct {
	mu     sync.Mutex
	errs   []error
	got    []string
	closed bool
}

func (s *fakeSink) Deliver(_ context.Context, env *types.Envelope) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return err
	}
	s.got = append(s.got, env.Namespace+env.Topic)
	return nil
}

func (s *fakeSink) Close() error { s.closed = true; return nil }

func TestOrderOverFailures(t *testing.T) {
	gone := errors.New("connection refused")
	sink := &fakeSink{errs: []error{gone, gone}}
	q := NewQueue("ns", sink)
	q.Send(&events.TaskCreate{})
	q.Send(&events.TaskStart{})
	q.Send(&events.TaskExit{})
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ns/tasks/create", "ns/tasks/start", "ns/tasks/exit"}; !slices.Equal(sink.got, want) {
		t.Errorf("got %v", sink.got)
	}
	if !sink.closed {
		t.Error("the sink is open")
	}
	q.Send(&events.TaskDelete{}) // too late, and no crash
}

func TestRefusedEventIsGivenUp(t *testing.T) {
	sink := &fakeSink{errs: []error{fmt.Errorf("bad: %w", errdefs.ErrInvalidArgument)}}
	q := NewQueue("ns", sink)
	q.Send(&events.TaskCreate{})
	q.Send(&events.TaskStart{})
	if err := q.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sink.got, []string{"ns/tasks/start"}) {
		t.Errorf("got %v", sink.got)
	}
}

func TestCloseIsBounded(t *testing.T) {
	sink := &fakeSink{errs: make([]error, 1000)}
	for i := range sink.errs {
		sink.errs[i] = errors.New("gone")
	}
	q := NewQueue("ns", sink)
	q.Send(&events.TaskCreate{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
	<-q.done
}

func TestQueueIsBounded(t *testing.T) {
	block := make(chan struct{})
	q := NewQueue("ns", blockingSink(block))
	for range maxQueued + 10 {
		q.Send(&events.TaskStart{})
	}
	q.mu.Lock()
	n := len(q.queued)
	q.mu.Unlock()
	if n > maxQueued {
		t.Errorf("%d events are queued", n)
	}
	close(block)
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

type blockingSink chan struct{}

func (s blockingSink) Deliver(context.Context, *types.Envelope) error { <-s; return nil }
func (s blockingSink) Close() error                                   { return nil }

func TestOldEventsAreGivenUp(t *testing.T) {
	env := func(age time.Duration) *types.Envelope {
		_, value, err := pack(&events.TaskStart{})
		if err != nil {
			t.Fatal(err)
		}
		return &types.Envelope{Event: value, Timestamp: timestamppb.New(time.Now().Add(-age))}
	}
	if worthRetrying(env(maxAge+time.Second), errors.New("x")) {
		t.Error("an old event is tried again")
	}
	if !worthRetrying(env(0), errors.New("x")) {
		t.Error("a new event is not tried again")
	}
}

func TestTopics(t *testing.T) {
	for _, m := range []proto.Message{
		&events.TaskCreate{}, &events.TaskStart{}, &events.TaskOOM{}, &events.TaskExit{}, &events.TaskDelete{},
		&events.TaskExecAdded{}, &events.TaskExecStarted{}, &events.TaskPaused{}, &events.TaskResumed{},
	} {
		if topic := Topic(m); !strings.HasPrefix(topic, "/tasks/") {
			t.Errorf("%T: topic %q", m, topic)
		}
	}
	if topic := Topic(&emptypb.Empty{}); topic != "" {
		t.Errorf("topic %q of no event", topic)
	}
}

// fakeContainerd is the ttrpc service to which shims forward events.
type fakeContainerd struct {
	server *ttrpc.Server
	got    chan *types.Envelope
}

func (f *fakeContainerd) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	f.got <- r.Envelope
	return &emptypb.Empty{}, nil
}

func startContainerd(t *testing.T, path string) *fakeContainerd {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeContainerd{server: server, got: make(chan *types.Envelope, 10)}
	eventsapi.RegisterTTRPCEventsService(server, f)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close() })
	return f
}

// TestRestartOfContainerd: events sent while containerd is away arrive at the
// next one.
func TestRestartOfContainerd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first := startContainerd(t, path)
	q := NewQueue("ns", TTRPC("unix://"+path))
	q.Send(&events.TaskCreate{ContainerID: "c"})
	env := <-first.got
	if env.Namespace != "ns" || env.Topic != "/tasks/create" || env.Event.TypeUrl != "containerd.events.TaskCreate" {
		t.Errorf("envelope %v", env)
	}
	var e events.TaskCreate
	if err := proto.Unmarshal(env.Event.Value, &e); err != nil || e.ContainerID != "c" {
		t.Errorf("event %v, %v", &e, err)
	}
	for left, _ := q.head(); left != nil; left, _ = q.head() {
		time.Sleep(time.Millisecond) // until the reply is there too
	}
	first.server.Close()
	os.Remove(path)
	q.Send(&events.TaskStart{})
	q.Send(&events.TaskExit{})
	second := startContainerd(t, path)
	for _, want := range []string{"/tasks/start", "/tasks/exit"} {
		if env := <-second.got; env.Topic != want {
			t.Errorf("topic %s, want %s", env.Topic, want)
		}
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBinary(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "containerd")
	text := "#!/bin/sh\necho \"$@\" > " + dir + "/args\ncat > " + dir + "/stdin\ntest ! -e " + dir + "/fail || { echo no such socket >&2; exit 1; }\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	sink, err := NewSink("", script, "/run/c.sock")
	if err != nil {
		t.Fatal(err)
	}
	topic, value, err := pack(&events.TaskOOM{ContainerID: "c"})
	if err != nil {
		t.Fatal(err)
	}
	env := &types.Envelope{Namespace: "ns", Topic: topic, Event: value}
	if err := sink.Deliver(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	if args, _ := os.ReadFile(dir + "/args"); string(args) != "--address /run/c.sock publish --topic /tasks/oom --namespace ns\n" {
		t.Errorf("arguments %q", args)
	}
	stdin, _ := os.ReadFile(dir + "/stdin")
	if want, _ := proto.Marshal(value); !slices.Equal(stdin, want) {
		t.Errorf("input %q", stdin)
	}
	if err := os.WriteFile(dir+"/fail", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sink.Deliver(t.Context(), env); err == nil || !strings.Contains(err.Error(), "no such socket") {
		t.Errorf("error %v", err)
	}
	if _, err := NewSink("", "", ""); err == nil {
		t.Error("a sink without a way to containerd")
	}
}
