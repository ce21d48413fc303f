package prebuilt

import (
	"bytes"
	"debug/elf"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var size = unikernel.Resources{MemoryMiB: 64, VCPUs: 1}

func TestPlan(t *testing.T) {
	a := app("x")
	a.Spec.Process.User.UID = 7
	a.Spec.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/etc/hosts", Type: "bind", Source: "/h"}}
	got, err := New(Config{Kernel: "/k", Initrd: "/i", Disk: "/d"}).Plan(a, size)
	if err != nil || got.Image == nil || got.Image.ImageFiles != (unikernel.ImageFiles{Kernel: "/k", Initrd: "/i", Disk: "/d"}) {
		t.Fatalf("got %+v, %v", got, err)
	}
	got.Image = nil
	want := unikernel.Plan{Boot: unikernel.Boot{Resources: size}, Without: []string{"user 7:0"},
		Disks: []unikernel.DiskRequest{{Kind: unikernel.DiskImage, Serial: unikernel.SerialRoot}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	a.Spec.Process.Env = []string{"SECRET=1"}
	for cmdline, private := range map[string]bool{"": false, "{args}": false, "{env} -- {args}": true, "--env={env*}": true} {
		got, err := New(Config{Kernel: "/k", Cmdline: cmdline}).Plan(a, size)
		if err != nil || got.Private != private {
			t.Errorf("%q: private %t, %v", cmdline, got.Private, err)
		}
	}
	a.Spec.Root = &specs.Root{Readonly: true}
	got, err = New(Config{Kernel: "/k", Disk: "/d"}).Plan(a, size)
	if err != nil || len(got.Disks) != 1 || !got.Disks[0].ReadOnly {
		t.Errorf("read-only: %+v, %v", got.Disks, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	no, invalid := unikernel.ErrNotImplemented, unikernel.ErrInvalid
	for name, tt := range map[string]struct {
		change func(*unikernel.App, *Config)
		want   error
		text   string
	}{
		"no kernel":   {func(_ *unikernel.App, c *Config) { c.Kernel = "" }, invalid, "io.containerd.uni.kernel"},
		"neither":     {func(_ *unikernel.App, c *Config) { c.Kernel = "" }, invalid, "/uni.json"},
		"disk's line": {func(_ *unikernel.App, c *Config) { *c = Config{Disk: "/d", Cmdline: "x"} }, invalid, "/d boots by itself"},
		"disk's type": {func(_ *unikernel.App, c *Config) { *c = Config{Disk: "/d", Machine: "microvm"} }, invalid, "take pc or q35"},
		"relative":    {func(_ *unikernel.App, c *Config) { c.Initrd = "i" }, invalid, "absolute"},
		"template":    {func(_ *unikernel.App, c *Config) { c.Cmdline = "{x}" }, invalid, "placeholder"},
		"device":      {func(a *unikernel.App, _ *Config) { a.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse"}} }, no, "/dev/fuse"},
		"terminal":    {func(a *unikernel.App, _ *Config) { a.Spec.Process.Terminal = true }, no, `"linux"`},
		"bind mount":  {func(a *unikernel.App, _ *Config) { a.Spec.Mounts = []specs.Mount{{Destination: "/data", Type: "bind"}} }, no, "/data"},
		"bind by option": {func(a *unikernel.App, _ *Config) {
			a.Spec.Mounts = []specs.Mount{{Destination: "/data", Options: []string{"rbind"}}}
		}, no, "/data"},
		"mount type": {func(a *unikernel.App, _ *Config) { a.Spec.Mounts = []specs.Mount{{Destination: "/data", Type: "ext4"}} }, no, "ext4"},
	} {
		a, c := app("x"), Config{Kernel: "/k"}
		tt.change(&a, &c)
		if _, err := New(c).Plan(a, size); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Config{Kernel: "/k"}).Plan(app("x"), unikernel.Resources{}); !errors.Is(err, invalid) {
		t.Errorf("no resources: %v", err)
	}
}

func TestComplete(t *testing.T) {
	for name, tt := range map[string]struct {
		kernel  []byte
		machine string
		want    string
		bios    bool
		patched bool
	}{
		"PVH":       {elf64(uint16(elf.EM_X86_64), pvh...), "", "microvm", true, false},
		"multiboot": {placed(false), "auto", "pc", true, true},
		"Linux":     {file("", map[int]uint32{0x202: 0x53726448}), "auto", "q35", false, false},
		"OSv":       {append(elf64(uint16(elf.EM_X86_64), pvh...), "OSv v1"...), "auto", "q35", true, false},
		"named":     {elf64(uint16(elf.EM_X86_64), pvh...), "q35", "q35", true, false},
	} {
		got, err := New(Config{Kernel: "/k", Machine: tt.machine}).Complete(bytes.NewReader(tt.kernel), int64(len(tt.kernel)), "/host/kernel")
		if want := (unikernel.Board{BIOS: tt.bios, DebugExit: true, HPET: true, NoMWAIT: true, Halts: true}); err != nil || got.Machine != tt.want || got.Board != want || (got.Patch != nil) != tt.patched || len(got.Without) > 0 {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	_, err := New(Config{Kernel: "/boot/k"}).Complete(strings.NewReader("#!/bin/sh"), 9, "/host/kernel")
	if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "/boot/k: it is a script") {
		t.Errorf("a script: %v", err)
	}
}

// TestDiskAlone: it boots by the BIOS, without a command line.
func TestDiskAlone(t *testing.T) {
	g := New(Config{Disk: "/d"})
	plan, err := g.Plan(app("x"), size)
	if err != nil || len(plan.Disks) != 1 || plan.Image.Disk != "/d" || plan.Image.Kernel != "" {
		t.Fatalf("%+v, %v", plan, err)
	}
	for data, machine := range map[string]string{"a boot sector": "pc", "OSv v0.57": "q35"} {
		k, err := plan.Image.Complete(strings.NewReader(data), int64(len(data)), "")
		if err != nil || k.Machine != machine || !k.Board.BIOS || k.Patch != nil {
			t.Errorf("%s: %+v, %v", data, k, err)
		}
		if told, err := k.Guest.Prepare(app("x")); err != nil || len(told.Cmdline) > 0 {
			t.Errorf("%s: %+v, %v", data, told, err)
		}
	}
}

// TestName: a multiboot kernel's command line begins with the program's name, as OCI
// has it, others' as the template says.
func TestName(t *testing.T) {
	for _, tt := range []struct {
		kernel   []byte
		template string
		args     []string
		want     []string
	}{
		{placed(false), "", []string{"/a b", "c"}, []string{`"/a b" c`}},
		{placed(false), "{args}", []string{"a", "c"}, []string{"a c"}},
		{placed(false), "{arg0} x -- {rest}", []string{"a", "c"}, []string{"a", "x", "--", "c"}},
		{placed(false), "x -- {args}", []string{"/a b", "c"}, []string{`"/a b"`, "x", "--", `"/a b" c`}},
		{placed(false), "", nil, []string{"k"}},
		{placed(false), "x", nil, []string{"k", "x"}},
		{elf64(uint16(elf.EM_X86_64), pvh...), "x -- {args}", []string{"a", "c"}, []string{"x", "--", "a c"}},
	} {
		k, err := New(Config{Kernel: "/boot/k", Cmdline: tt.template}).Complete(bytes.NewReader(tt.kernel), int64(len(tt.kernel)), "/host/kernel")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Guest.Prepare(app(tt.args...)); err != nil || !slices.Equal(got.Cmdline, tt.want) {
			t.Errorf("%q of %q: got %q, %v, want %q", tt.template, tt.args, got.Cmdline, err, tt.want)
		}
	}
}

func TestExit(t *testing.T) {
	for _, tt := range []struct {
		end  unikernel.End
		want uint32
		err  error
	}{
		{unikernel.End{Reason: unikernel.EndShutdown}, 0, nil},
		{unikernel.End{Reason: unikernel.EndExited, Status: 42}, 42, nil},
		{unikernel.End{Reason: unikernel.EndPanicked}, 0, unikernel.ErrUnavailable},
		{unikernel.End{Reason: unikernel.EndHalted}, 0, unikernel.ErrUnavailable},
		{unikernel.End{Reason: unikernel.EndFailed}, 0, unikernel.ErrUnavailable},
	} {
		if got, err := New(Config{}).exit(tt.end, nil); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d, %v", tt.end.Reason, got, err)
		}
	}
}
