package task

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/shim/stdio"
	"containerd-shim-uni/unikernel"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestCreateUndoes lets each step of a creation fail; whichever it is, nothing
// is left and nothing was announced.
func TestCreateUndoes(t *testing.T) {
	boom := errors.New("boom")
	withNetwork := func(b *bench) {
		b.spec.Linux.Namespaces[0].Path = "/run/netns/x"
		b.host.networks.found.Interfaces = make([]unikernel.Interface, 2)
	}
	for name, fail := range map[string]func(*bench){
		"network":   func(b *bench) { withNetwork(b); b.host.networks.lookErr = boom },
		"namespace": func(b *bench) { b.host.networks.newErr = boom },
		"libvirt":   func(b *bench) { b.host.err = boom },
		"plan":      func(b *bench) { b.host.guest.planErr = boom },
		"root":      func(b *bench) { b.host.disks.rootErr = boom },
		"layer":     func(b *bench) { b.host.disks.writableErr = boom },
		"taps":      func(b *bench) { withNetwork(b); b.host.networks.tapErr = boom },
		"machine":   func(b *bench) { withNetwork(b); b.host.machines.CreateErr = boom },
		"occupant":  func(b *bench) { b.host.networks.occupyErr = boom },
		"join":      func(b *bench) { withNetwork(b); b.host.networks.joinErr = boom },
		"cgroup":    func(b *bench) { b.host.cgroupErr = boom },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			fail(b)
			if _, err := b.create(); !errors.Is(err, boom) {
				t.Errorf("create: %v", err)
			}
			b.wantNothing()
			b.wantEvents()
			if _, err := b.Status("c", ""); !errdefs.IsNotFound(err) {
				t.Errorf("status: %v", err)
			}
			b.Shutdown()
			<-b.Done()
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*bench)
		class  error
		text   string
	}{
		"unknown annotation": {func(b *bench) { b.spec.Annotations = map[string]string{"io.containerd.uni.colour": "red"} },
			config.ErrInvalid, "colour"},
		"bad memory": {func(b *bench) { b.spec.Annotations = map[string]string{"io.containerd.uni.memory": "much"} },
			config.ErrInvalid, "much"},
		"program not there": {func(b *bench) {
			b.spec.Process.Args = []string{"nosuch"}
			b.host.disks.missing, b.host.disks.advice = "nosuch", "add it"
		}, nil, `OCI runtime create failed: unable to start container process: exec: "nosuch": executable file not found in $PATH; add it`},
		"path not there": {func(b *bench) {
			b.spec.Process.Args = []string{"/no/such"}
			b.host.disks.missing = "/no/such"
		}, nil, `exec: "/no/such": stat /no/such: no such file or directory`},
		"host network": {func(b *bench) { b.spec.Linux.Namespaces = nil }, unikernel.ErrNotImplemented, "host's network"},
		"no process":   {func(b *bench) { b.spec.Process = nil }, unikernel.ErrInvalid, "no process"},
		"hooks inside": {func(b *bench) { b.spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/true"}}} },
			unikernel.ErrNotImplemented, "createContainer"},
		"another's network": {func(b *bench) { b.spec.Linux.Namespaces[0].Path = "/proc/1/ns/net" },
			unikernel.ErrNotImplemented, "another process"},
		"bind mount of a device": {func(b *bench) {
			b.spec.Mounts = []specs.Mount{{Destination: "/n", Source: "/dev/null", Type: "bind"}}
		}, unikernel.ErrNotImplemented, "a device"},
		"bad CPU set": {func(b *bench) {
			b.spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "3-1"}}
		}, unikernel.ErrInvalid, "3-1"},
		"bad configuration": {func(b *bench) { b.configure("nosuch = 1") }, config.ErrInvalid, "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			test.change(b)
			_, err := b.create()
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %q", err, test.text)
			}
			if test.class != nil && !errors.Is(err, test.class) || test.class == nil && errors.Is(err, unikernel.ErrNotFound) {
				t.Errorf("error %v, want one of class %v", err, test.class)
			}
			b.wantNothing()
		})
	}
}

func TestCreateBrokenBundle(t *testing.T) {
	b := newBench(t)
	if err := os.WriteFile(filepath.Join(b.bundle, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := b.Create(t.Context(), CreateRequest{ID: "c", Bundle: b.bundle})
	if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("error %v", err)
	}
	_, err = b.Create(t.Context(), CreateRequest{ID: "c", Bundle: b.bundle, Checkpoint: "/x"})
	if !errors.Is(err, unikernel.ErrNotImplemented) {
		t.Errorf("checkpoint: %v", err)
	}
}

// TestCreateAfterACrash: what a killed shim left of a container of the same
// name is cleaned up first.
func TestCreateAfterACrash(t *testing.T) {
	b := newBench(t)
	n := NewNames(config.Storage{StateDir: b.dir + "/s", DataDir: b.dir + "/d"}, "ns", "c", "")
	for _, dir := range []string{n.Sandbox.State, n.Data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(n.Sandbox.Control(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.must(true)
	if b.host.machines.Destroyed[0] != domain {
		t.Errorf("destroyed: %v", b.host.machines.Destroyed)
	}
}

func TestStreamsThatCannotBeOpened(t *testing.T) {
	b := newBench(t)
	b.must(false)
	b.end(b.containers["c"])
	b.remove()
	_, err := b.Create(t.Context(), CreateRequest{ID: "c", Bundle: b.bundle, IO: stdio.Config{Stdout: filepath.Join(t.TempDir(), "absent/fifo")}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	b.wantNothing()
}

func TestOptions(t *testing.T) {
	pack := func(o *runtimeoptions.Options) *anypb.Any {
		data, err := proto.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: data}
	}
	dir := t.TempDir()
	t.Setenv("UNI_CONFIG", filepath.Join(dir, "default.toml"))
	for name, memory := range map[string]string{"default.toml": "128", "other.toml": "512"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("[machine]\nmemory_mib = "+memory), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		options *anypb.Any
		want    int
	}{
		"none":              {nil, 128},
		"empty":             {pack(&runtimeoptions.Options{}), 128},
		"another runtime's": {&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}}, 128},
		"path":              {pack(&runtimeoptions.Options{ConfigPath: filepath.Join(dir, "other.toml")}), 512},
		"body":              {pack(&runtimeoptions.Options{ConfigBody: []byte("[machine]\nmemory_mib = 64")}), 64},
		"path before body": {pack(&runtimeoptions.Options{ConfigPath: filepath.Join(dir, "other.toml"),
			ConfigBody: []byte("[machine]\nmemory_mib = 64")}), 512},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			if err := RecordOptions(bundle, test.options); err != nil {
				t.Fatal(err)
			}
			cfg, err := LoadConfig(bundle)
			if err != nil || cfg.Machine.MemoryMiB != test.want {
				t.Errorf("memory %d, %v; want %d", cfg.Machine.MemoryMiB, err, test.want)
			}
		})
	}
	if err := RecordOptions(t.TempDir(), pack(&runtimeoptions.Options{ConfigPath: "x"})); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("relative path: %v", err)
	}
}

func TestResources(t *testing.T) {
	limit := func(n int64) *specs.LinuxMemory { return &specs.LinuxMemory{Limit: &n} }
	quota := func(q int64, p uint64) *specs.LinuxCPU { return &specs.LinuxCPU{Quota: &q, Period: &p} }
	for name, test := range map[string]struct {
		memory        *specs.LinuxMemory
		cpu           *specs.LinuxCPU
		wantMiB, want int
	}{
		"defaults":             {nil, nil, 256, 1},
		"rounded down":         {limit(64<<20 + 1<<19), nil, 64, 1},
		"no limit":             {limit(-1), nil, 256, 1},
		"no limit, cgroup v1":  {limit(0x7ffffffffffff000), nil, 256, 1},
		"half a CPU":           {nil, quota(50_000, 100_000), 256, 1},
		"two and a bit":        {nil, quota(200_001, 100_000), 256, 3},
		"no quota":             {nil, quota(-1, 100_000), 256, 1},
		"CPU set":              {nil, &specs.LinuxCPU{Cpus: "0-2,7"}, 256, 4},
		"quota before CPU set": {nil, &specs.LinuxCPU{Cpus: "0-2", Quota: ptr(int64(100_000))}, 256, 1},
		"absurd quota":         {nil, quota(1<<62, 1), 256, 255},
	} {
		t.Run(name, func(t *testing.T) {
			spec := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: test.memory, CPU: test.cpu}}}
			got, err := resources(spec, config.Default().Machine)
			if err != nil || got.MemoryMiB != test.wantMiB || got.VCPUs != test.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	for _, list := range []string{"", "x", "1-", "0,,1", "-1", "99999999"} {
		if n, err := countCPUs(list); err == nil {
			t.Errorf("CPU set %q: %d", list, n)
		}
	}
}

func ptr[T any](v T) *T { return &v }
