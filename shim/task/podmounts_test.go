package task

import (
	"testing"

	"containerd-shim-uni/shim/volume"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCommonMounts: what is mounted for the pod is what its containers have where they
// have nothing else.
func TestCommonMounts(t *testing.T) {
	p := &pod{volumes: volume.NewSet()}
	p.mounts = commonMounts([]specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/etc/hosts", Type: "bind", Source: "/b/pod/hosts", Options: []string{"rbind", "ro"}},
		{Destination: "/etc/resolv.conf", Type: "bind", Source: "/b/pod/resolv.conf"},
		{Destination: "/data", Type: "bind", Source: "/data"},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "/b/pod/shm", Options: []string{"size=1m"}},
	}, p.volumes)
	bind := func(at, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	hosts, resolv := bind("/etc/hosts", "/b/pod/hosts"), bind("/etc/resolv.conf", "/b/pod/resolv.conf")
	shm := bind("/dev/shm", "/b/pod/shm", "nosuid", "nodev", "noexec")
	own := specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/pods/u/etc-hosts"}
	ownShm := specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/pods/u/volumes/kubernetes.io~empty-dir/shm"}
	usual := specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}
	readOnly := &specs.Root{Readonly: true}
	for name, tt := range map[string]struct {
		spec specs.Spec
		want []specs.Mount
	}{
		"nothing of its own": {specs.Spec{}, []specs.Mount{hosts, resolv, shm}},
		"the usual":          {specs.Spec{Mounts: []specs.Mount{usual}}, []specs.Mount{shm, hosts, resolv}},
		"all its own":        {specs.Spec{Mounts: []specs.Mount{own, ownShm, resolv}}, []specs.Mount{own, ownShm, resolv}},
		"a read-only root": {specs.Spec{Root: readOnly}, []specs.Mount{
			bind("/etc/hosts", "/b/pod/hosts", "ro"), bind("/etc/resolv.conf", "/b/pod/resolv.conf", "ro"), shm}},
	} {
		if diff := cmp.Diff(tt.want, p.mountsOf(&tt.spec)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
