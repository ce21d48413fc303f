package cri

import (
	"errors"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestUpdated(t *testing.T) {
	with := func(url, value string) *types.Sandbox {
		return &types.Sandbox{Extensions: map[string]*anypb.Any{extensionResources: {TypeUrl: url, Value: []byte(value)}}}
	}
	got, err := Updated(with(typeResources, `{"Overhead":null,"Resources":{"cpu_period":100000,"cpu_quota":150000,"memory_limit_in_bytes":1048576}}`))
	if err != nil || *got.Memory.Limit != 1<<20 || *got.CPU.Quota != 150000 || *got.CPU.Period != 100000 {
		t.Errorf("%+v, %v", got, err)
	}
	for name, s := range map[string]*types.Sandbox{"nothing": nil, "no limits": with(typeResources, `{"Overhead":{},"Resources":null}`)} {
		if got, err := Updated(s); got != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, s := range map[string]*types.Sandbox{"another type": with("x", "{}"), "garbage": with(typeResources, "{")} {
		if _, err := Updated(s); !errors.Is(err, unikernel.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
