package watch

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestWithout(t *testing.T) {
	pids := int64(50)
	for name, tt := range map[string]struct {
		change func(*specs.Spec)
		want   []string
	}{
		"nothing": {func(*specs.Spec) {}, nil},
		"what clients ask for": {func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: usualCapabilities}
			s.Process.Rlimits = []specs.POSIXRlimit{usualLimit}
			s.Process.NoNewPrivileges = true
			s.Linux.Sysctl = map[string]string{"net.ipv4.ping_group_range": "0 1"}
			s.Linux.Seccomp = &specs.LinuxSeccomp{}
			s.Linux.MaskedPaths = []string{"/proc/kcore"}
		}, nil},
		"user":  {func(s *specs.Spec) { s.Process.User.UID = 1000 }, []string{"user 1000:0"}},
		"group": {func(s *specs.Spec) { s.Process.User.GID = 7 }, []string{"user 0:7"}},
		"capabilities": {func(s *specs.Spec) {
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: append(slices.Clone(usualCapabilities[1:]), "CAP_SYS_TIME")}
		}, []string{"capabilities +CAP_SYS_TIME -CAP_CHOWN"}},
		"limits": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{usualLimit, {Type: "RLIMIT_CORE", Soft: 5, Hard: 6}}
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}
		}, []string{"limit RLIMIT_CORE of 5", "limit of 50 threads"}},
		"sysctls": {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"b": "1", "a": "2"} }, []string{"sysctl a=2", "sysctl b=1"}},
	} {
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		tt.change(s)
		if got := Without(s); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
