package rpc

import (
	"context"
	"errors"
	"strings"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// classes says which of containerd's errors each of ours is, in order: the
// first that an error wraps decides.
var classes = []struct {
	ours error
	code codes.Code
}{
	{unikernel.ErrNotImplemented, codes.Unimplemented},
	{unikernel.ErrInvalid, codes.InvalidArgument},
	{config.ErrInvalid, codes.InvalidArgument},
	{unikernel.ErrNotFound, codes.NotFound},
	{unikernel.ErrUnavailable, codes.Unavailable},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// containerdErrors are errors that have a code already.
var containerdErrors = []error{
	errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument,
	errdefs.ErrUnavailable, errdefs.ErrNotImplemented,
}

// toGRPC is the one place where an error becomes a code; the text stays,
// but for the class in its middle.
func toGRPC(err error) error {
	if err == nil {
		return nil
	}
	for _, e := range containerdErrors {
		if errors.Is(err, e) {
			return errgrpc.ToGRPC(err)
		}
	}
	for _, c := range classes {
		if errors.Is(err, c.ours) {
			// The client puts the class's words behind the text: once is enough.
			return status.Error(c.code, strings.Replace(err.Error(), c.ours.Error()+": ", "", 1))
		}
	}
	return status.Error(codes.Unknown, err.Error())
}
