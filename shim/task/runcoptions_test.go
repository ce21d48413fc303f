package task

import (
	"errors"
	"slices"
	"testing"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestRuncOptions(t *testing.T) {
	o := &options.Options{ShimCgroup: "/shims", Root: "/run/x", BinaryName: "crun", SystemdCgroup: true}
	value, err := proto.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"containerd.runc.v1.Options", "types.googleapis.com/containerd.runc.v1.Options"} {
		if got, err := ShimCgroup(&anypb.Any{TypeUrl: url, Value: value}); got != "/shims" || err != nil {
			t.Errorf("%s: %q, %v", url, got, err)
		}
	}
	if got := unusedOptions(o); !slices.Equal(got, []string{"BinaryName", "Root"}) {
		t.Errorf("not used are %q", got)
	}
	if got := unusedOptions(nil); got != nil {
		t.Errorf("nothing is set, not used are %q", got)
	}
	for _, a := range []*anypb.Any{nil, {TypeUrl: "runtimeoptions.v1.Options", Value: value}} {
		if got, err := ShimCgroup(a); got != "" || err != nil {
			t.Errorf("%v: %q, %v", a, got, err)
		}
	}
	if _, err := ShimCgroup(&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("nonsense: %v", err)
	}
}
