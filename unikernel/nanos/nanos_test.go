package nanos

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func app() unikernel.App {
	return unikernel.App{Namespace: "ns", ID: "c", Spec: &specs.Spec{
		Process: &specs.Process{Args: []string{"/bin/x", "a b"}, Env: []string{"A=1"}, Cwd: "/w"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}}},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/etc/hosts", Type: "bind", Source: "/h"}},
	}}
}

var size = unikernel.Resources{MemoryMiB: 64, VCPUs: 1}

func TestPlan(t *testing.T) {
	got, err := New(Config{Kernel: "/k", Machine: "q35"}).Plan(app(), size)
	want := unikernel.Plan{
		Boot: unikernel.Boot{Machine: "q35", Kernel: "/k/kernel.img", Resources: size, Board: board, Queues: 1},
		Disks: []unikernel.DiskRequest{{
			Kind: unikernel.DiskBoot, Serial: unikernel.SerialRoot,
			Boot: unikernel.BootDisk{Boot: "/k/boot.img", Kernel: "/k/kernel.img"},
		}},
		OneProcess: true,
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	no := unikernel.ErrNotImplemented
	for name, tt := range map[string]struct {
		change func(*unikernel.App, *unikernel.Resources)
		want   error
	}{
		"no specification": {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec = nil }, unikernel.ErrInvalid},
		"no process":       {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Process = nil }, unikernel.ErrInvalid},
		"no program":       {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Process.Args = nil }, unikernel.ErrInvalid},
		"zero byte":        {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Process.Env = []string{"A=\x00"} }, unikernel.ErrInvalid},
		"relative cwd":     {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Process.Cwd = "w" }, unikernel.ErrInvalid},
		"little memory":    {func(_ *unikernel.App, r *unikernel.Resources) { r.MemoryMiB = 15 }, unikernel.ErrInvalid},
		"no CPU":           {func(_ *unikernel.App, r *unikernel.Resources) { r.VCPUs = 0 }, unikernel.ErrInvalid},
		"relative mount":   {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Mounts[0].Destination = "p" }, unikernel.ErrInvalid},
		"terminal":         {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Process.Terminal = true }, no},
		"mount type":       {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Mounts[0].Type = "ext4" }, no},
		"host's processes": {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Linux.Namespaces = a.Spec.Linux.Namespaces[:1] }, no},
		"shared processes": {func(a *unikernel.App, _ *unikernel.Resources) { a.Spec.Linux.Namespaces[1].Path = "/proc/1/ns/pid" }, no},
		"mapped users": {func(a *unikernel.App, _ *unikernel.Resources) {
			a.Spec.Linux.UIDMappings = make([]specs.LinuxIDMapping, 1)
		}, no},
		"hook": {func(a *unikernel.App, _ *unikernel.Resources) {
			a.Spec.Hooks = &specs.Hooks{StartContainer: make([]specs.Hook, 1)}
		}, no},
	} {
		a, r := app(), size
		tt.change(&a, &r)
		if _, err := New(Config{}).Plan(a, r); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestConfigure(t *testing.T) {
	a := app()
	a.Spec.Root = &specs.Root{Readonly: true}
	a.Shares = []unikernel.SharedMount{{Mount: a.Spec.Mounts[1], Name: "0"}}
	a.Network = unikernel.Network{
		Interfaces: []unikernel.Interface{
			{Name: "eth0", MTU: 1450, Addresses: prefixes("fe80::1/64", "10.1.2.3/20", "2001:db8::5/64")},
			{Name: "net1", Addresses: prefixes("192.0.2.1/32")},
		},
		Routes: []unikernel.Route{
			{Interface: "eth0", Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("2001:db8::1")},
			{Interface: "eth0", Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.1.0.1")},
		},
	}
	got, err := New(Config{}).Configure(a)
	want := unikernel.BootConfig{
		Args: []string{"/bin/x", "a b"}, Env: []string{"A=1"}, Cwd: "/w",
		Options: []unikernel.Option{
			{Name: "debug_exit", Value: "t"}, {Name: "readonly_rootfs", Value: "t"}, {Name: "en1.ipaddr", Value: "10.1.2.3"}, {Name: "en1.netmask", Value: "255.255.240.0"},
			{Name: "en1.gateway", Value: "10.1.0.1"}, {Name: "en1.ip6addr", Value: "2001:0db8:0000:0000:0000:0000:0000:0005"},
			{Name: "en1.default", Value: "t"}, {Name: "en1.mtu", Value: "1450"},
			{Name: "en2.ipaddr", Value: "192.0.2.1"}, {Name: "en2.netmask", Value: "255.255.255.255"}, {Name: "en2.gateway", Value: "0.0.0.0"},
		},
		Files:   []unikernel.BootFile{{Path: "/etc/hosts", Source: "/h"}},
		Without: []string{"IPv6 default route by 2001:db8::1 on eth0, unless that router advertises it"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestFilter(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a\nb": "a\nb", "\n\n": "\n\n", "[": "[", "[1.23456": "[1.23456", "enter\n": "enter\n",
		"[0.512345] NET: no interface\nhello\n":          "hello\n",
		"a\n[12.000001] x\nb\n":                          "a\nb\n",
		"en1: assigned 10.0.0.2\nen12: assigned x\nen\n": "en\n",
		"[1.2345678] x\n[1.23456] y\n[x] z\n[1]\n":       "[1.2345678] x\n[1.23456] y\n[x] z\n[1]\n",
		"mid [1.234567] line\n":                          "mid [1.234567] line\n",
		"\x00\xff\r\n[1.000000] \n":                      "\x00\xff\r\n",
		"[1.000000] no end":                              "",
		"[99999999999999999999.000000] x\n":              "[99999999999999999999.000000] x\n",
	} {
		for step := 1; step <= 3; step++ {
			var b strings.Builder
			f := filter{out: &b}
			for p := range slices.Chunk([]byte(in), step) {
				if n, err := f.Write(p); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := f.Close(); err != nil || b.String() != want {
				t.Errorf("%q in steps of %d gives %q, want %q; %v", in, step, b.String(), want, err)
			}
		}
	}
}

// TestFilterPassesAtOnce: a prompt without a line's end is seen.
func TestFilterPassesAtOnce(t *testing.T) {
	var b strings.Builder
	f := filter{out: &b}
	_, _ = f.Write([]byte("> "))
	if b.String() != "> " {
		t.Errorf("%q", b.String())
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestFilterReadsOn(t *testing.T) {
	f := filter{out: failing{}}
	for range 3 {
		if n, err := f.Write([]byte("x\n")); n != 2 || err != nil {
			t.Error(n, err)
		}
	}
	if f.Close() == nil {
		t.Error("the error is lost")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte("a\n[1.234567] b\nc"), 2)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		run := func(step int) string {
			var b strings.Builder
			f := filter{out: &b}
			for p := range slices.Chunk(in, step) {
				_, _ = f.Write(p)
			}
			_ = f.Close()
			return b.String()
		}
		if step < 1 || len(in) == 0 {
			return
		}
		if a, b := run(step), run(len(in)); a != b {
			t.Errorf("in steps of %d %q, at once %q", step, a, b)
		}
	})
}

func TestExitStatus(t *testing.T) {
	record := func(code byte) []byte {
		return append([]byte("KLOG12345678"), code, 0, 0, 0, 'x')
	}
	shut := unikernel.End{Reason: unikernel.EndShutdown}
	for name, tt := range map[string]struct {
		end    unikernel.End
		record []byte
		want   uint32
		err    error
	}{
		"zero":            {shut, make([]byte, 4096), 0, nil},
		"no record":       {shut, nil, 0, nil},
		"one":             {shut, record(1), 1, nil},
		"128":             {shut, record(128), 128, nil},
		"255":             {shut, record(255), 255, nil},
		"300":             {shut, []byte("KLOG12345678\x2c\x01\x00\x00"), 44, nil},
		"record, unknown": {unikernel.End{Reason: unikernel.EndUnknown}, record(7), 7, nil},
		"killed":          {unikernel.End{Reason: unikernel.EndFailed}, make([]byte, 4096), 0, unikernel.ErrUnavailable},
		"kernel failed":   {unikernel.End{Reason: unikernel.EndPanicked}, make([]byte, 4096), 0, unikernel.ErrUnavailable},
		"panic port":      {unikernel.End{Reason: unikernel.EndPanicked}, record(3), 3, nil},
		"destroyed":       {unikernel.End{Reason: unikernel.EndDestroyed}, nil, 0, unikernel.ErrUnavailable},
		"short":           {unikernel.End{}, []byte("KLOG"), 0, unikernel.ErrUnavailable},
	} {
		got, err := exitStatus(tt.end, tt.record)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d, %v; want %d, %v", name, got, err, tt.want, tt.err)
		}
	}
}
