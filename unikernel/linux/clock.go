package linux

import (
	"context"
	"fmt"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

// How well the guest's clock is kept. See docs/time.md.
const (
	// clockEvery is how often it is compared with the host's. Both run at rates
	// that differ by 60 parts in a million or less: 4 ms in that time.
	clockEvery = time.Minute
	// clockDoubt is how exactly the difference must be known, clockPatience how
	// long a busy host gets to come that close, before less will do.
	clockDoubt    = 10 * time.Millisecond
	clockPatience = time.Second
	// clockSlack is a difference that is left as it is.
	clockSlack = time.Millisecond
)

// compareClocks finds how far the guest's clock is behind the host's, and by
// how much that can be wrong: the guest read it at some moment between question
// and answer, and asking again makes the time between short.
func (s *session) compareClocks(ctx context.Context) (behind, doubt time.Duration, err error) {
	began := time.Now()
	for first := true; first || doubt > clockDoubt+max(0, time.Since(began)-clockPatience)/4; first = false {
		asked := time.Now()
		data, err := s.ask(ctx, wire.KindClock, wire.Clock{}.Encode())
		if err != nil {
			return 0, 0, err
		}
		half := time.Since(asked) / 2
		guest, err := wire.DecodeTime(data)
		if err != nil {
			return 0, 0, fmt.Errorf("the guest's clock: %w", err)
		}
		if first || half < doubt {
			behind, doubt = asked.Add(half).Sub(time.Unix(0, guest.Now)), half
		}
	}
	return behind, doubt, nil
}

// SetClock implements unikernel.Timekeeper.
func (s *session) SetClock(ctx context.Context) error {
	select {
	case s.clock <- struct{}{}: // two corrections of one difference would be one too many
	case <-ctx.Done():
		return fmt.Errorf("%w: the guest's clock: %w", unikernel.ErrUnavailable, context.Cause(ctx))
	}
	defer func() { <-s.clock }()
	behind, doubt, err := s.compareClocks(ctx)
	if err != nil || behind.Abs() <= max(doubt, clockSlack) {
		return err
	}
	_, err = s.ask(ctx, wire.KindClock, wire.Clock{Behind: int64(behind)}.Encode())
	return err
}

// keepClock corrects the guest's clock as long as the session lasts. A machine
// that is paused answers when it runs again; until then there is no further
// question.
func (s *session) keepClock() {
	timer := time.NewTicker(clockEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			_ = s.SetClock(context.Background()) // ends with the session
		case <-s.done:
			return
		}
	}
}
