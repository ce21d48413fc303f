package event

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Limits of the queue.
const (
	maxQueued    = 2048 // events; the oldest is dropped beyond
	maxAge       = 10 * time.Minute
	firstRetry   = 50 * time.Millisecond
	longestRetry = 2 * time.Second
	sendTimeout  = 5 * time.Second
)

// Sink delivers one event.
type Sink interface {
	// Deliver returns nil once containerd has the event. An error that wraps
	// errdefs.ErrInvalidArgument means that no further try can succeed.
	Deliver(context.Context, *types.Envelope) error
	// Close releases the way to containerd.
	Close() error
}

// Queue sends events in order. Its methods may be called concurrently.
type Queue struct {
	namespace string
	sink      Sink
	wake      chan struct{} // holds one token when there is something to look at
	done      chan struct{} // closed when the sender has ended

	mu     sync.Mutex
	queued []*types.Envelope
	closed bool
}

// NewQueue starts a queue for one namespace. Close ends it.
func NewQueue(namespace string, sink Sink) *Queue {
	q := &Queue{
		namespace: namespace,
		sink:      sink,
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	go q.run()
	return q
}

// Send queues an event, stamped with the present time.
func (q *Queue) Send(e proto.Message) {
	topic, value, err := pack(e)
	if err != nil {
		log.L.WithError(err).Error("event cannot be sent")
		return
	}
	env := &types.Envelope{Timestamp: timestamppb.Now(), Namespace: q.namespace, Topic: topic, Event: value}

	q.mu.Lock()
	dropped := ""
	if len(q.queued) >= maxQueued {
		dropped = q.queued[0].Topic
		q.queued = q.queued[1:]
	}
	if !q.closed {
		q.queued = append(q.queued, env)
	}
	q.mu.Unlock()
	if dropped != "" {
		log.L.WithField("topic", dropped).Error("event dropped: too many are waiting for containerd")
	}
	q.poke()
}

// Close stops accepting events, waits until those queued are delivered or the
// context ends, and ends the sender.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.poke()

	var err error
	select {
	case <-q.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		q.mu.Lock()
		q.queued = nil
		q.mu.Unlock()
		q.poke()
	}
	return errors.Join(err, q.sink.Close())
}

func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// head returns the event to send next, or nil, and whether the queue has ended.
func (q *Queue) head() (env *types.Envelope, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queued) > 0 {
		return q.queued[0], false
	}
	return nil, q.closed
}

// drop removes env from the head, if it is still there.
func (q *Queue) drop(env *types.Envelope) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queued) > 0 && q.queued[0] == env {
		q.queued = q.queued[1:]
	}
}

func (q *Queue) run() {
	defer close(q.done)
	retry := firstRetry
	for {
		env, ended := q.head()
		if ended {
			return
		}
		if env == nil {
			<-q.wake
			continue
		}
		err := q.deliver(env)
		if err == nil || !worthRetrying(env, err) {
			if err != nil {
				log.L.WithError(err).WithField("topic", env.Topic).Error("event given up")
			}
			q.drop(env)
			retry = firstRetry
			continue
		}
		log.L.WithError(err).WithField("topic", env.Topic).Debug("event will be sent again")
		pause(q.wake, retry)
		retry = min(2*retry, longestRetry)
	}
}

func (q *Queue) deliver(env *types.Envelope) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	return q.sink.Deliver(ctx, env)
}

func worthRetrying(env *types.Envelope, err error) bool {
	return !errdefs.IsInvalidArgument(err) && time.Since(env.Timestamp.AsTime()) < maxAge
}

// pause waits for d, or less if there is news for the queue.
func pause(wake <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	}
}

// pack returns the topic of an event and the event as containerd's clients
// expect it: an Any whose type has no prefix (typeurl).
func pack(e proto.Message) (string, *anypb.Any, error) {
	topic := Topic(e)
	if topic == "" {
		return "", nil, errors.New("no topic for " + string(e.ProtoReflect().Descriptor().FullName()))
	}
	data, err := proto.Marshal(e)
	if err != nil {
		return "", nil, err
	}
	return topic, &anypb.Any{TypeUrl: string(e.ProtoReflect().Descriptor().FullName()), Value: data}, nil
}
