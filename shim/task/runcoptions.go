package task

import (
	"fmt"
	"strings"

	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// runcOptions returns options of runc's type, which clients send to any runtime
// that they do not know; nil if these are none.
func runcOptions(a *anypb.Any) (*options.Options, error) {
	var o options.Options
	if a == nil || !strings.HasSuffix(a.TypeUrl, string(o.ProtoReflect().Descriptor().FullName())) {
		return nil, nil
	}
	if err := proto.Unmarshal(a.Value, &o); err != nil {
		return nil, fmt.Errorf("runtime options of runc's type: %w: %w", unikernel.ErrInvalid, err)
	}
	return &o, nil
}

// ShimCgroup returns the cgroup that the client wants the shim in, or "".
func ShimCgroup(a *anypb.Any) (string, error) {
	o, err := runcOptions(a)
	return o.GetShimCgroup(), err
}

// unusedOptions names the options of runc's type that are set and have no
// meaning here. SystemdCgroup is not among them: the cgroup's path says it too.
func unusedOptions(o *options.Options) (names []string) {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"BinaryName", o.GetBinaryName() != ""},
		{"Root", o.GetRoot() != ""},
		{"NoPivotRoot", o.GetNoPivotRoot()},
		{"NoNewKeyring", o.GetNoNewKeyring()},
		{"IoUid", o.GetIoUid() != 0},
		{"IoGid", o.GetIoGid() != 0},
		{"CriuImagePath", o.GetCriuImagePath() != ""},
		{"CriuWorkPath", o.GetCriuWorkPath() != ""},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}
