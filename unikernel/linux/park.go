package linux

import (
	"context"
	"crypto/rand"
	"fmt"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

var _ unikernel.Parker = (*session)(nil)

// Park implements unikernel.Parker.
func (s *session) Park(ctx context.Context) error {
	if err := s.call(ctx, wire.KindPark, nil); err != nil {
		return fmt.Errorf("park: %w", err)
	}
	return nil
}

// wake makes a machine that goes on from another's state one of its own.
func (s *session) wake(ctx context.Context) error {
	var w wire.Wake
	rand.Read(w.Entropy[:]) // never fails
	if err := s.call(ctx, wire.KindWake, w.Encode()); err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	return nil
}
