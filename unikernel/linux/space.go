package linux

import (
	"context"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

var _ unikernel.Spacious = (*session)(nil)

// Space implements unikernel.Spacious.
func (s *session) Space(ctx context.Context, free, held int64) error {
	return s.call(ctx, wire.KindSpace, wire.Space{Free: uint64(max(free, 0)), Held: uint64(max(held, 0))}.Encode())
}
