package linux

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var enough = unikernel.Resources{MemoryMiB: 256, VCPUs: 2}

func TestPlan(t *testing.T) {
	g := New(Config{Kernel: "/k", Initrd: "/i", Machine: "q35", Emulated: true, TSCKHz: 2445428, ExtraCmdline: []string{"a=b"}})
	plan, err := g.Plan(testApp(), enough)
	if err != nil {
		t.Fatal(err)
	}
	want := unikernel.Plan{
		Boot: unikernel.Boot{Machine: "q35", Kernel: "/k", Initrd: "/i", Resources: enough, Queues: 2, Control: "uni.ctl", Parks: true, Board: unikernel.Board{ReportsFree: true},
			Cmdline: []string{"console=ttyS0", "quiet", "panic=-1", "reboot=t",
				"sysctl.vm.overcommit_memory=1", "virtio_blk.queue_depth=128",
				"uni.lapic_hz=1000000000", "no_timer_check", "tsc_early_khz=2445428", "tsc=reliable", "a=b"}},
		Disks:   []unikernel.DiskRequest{{Kind: unikernel.DiskRoot, Serial: "root"}, {Kind: unikernel.DiskWritable, Serial: "writable"}},
		Volumes: true,
	}
	if !reflect.DeepEqual(plan, want) {
		t.Errorf("plan %+v\nwant %+v", plan, want)
	}
}

func TestPlanVariants(t *testing.T) {
	a := testApp()
	a.Spec.Root.Readonly = true
	a.Spec.Mounts = []specs.Mount{{Destination: "/x", Source: "/host", Options: []string{"rbind", "ro"}}}
	plan, err := New(Config{}).Plan(a, enough)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Disks) != 1 || plan.Disks[0].Kind != unikernel.DiskRoot || plan.ShareTag == "" || plan.Machine != "microvm" {
		t.Errorf("plan %+v: want no writable disk, a share, microvm", plan)
	}
	if slices.ContainsFunc(plan.Cmdline, func(s string) bool { return strings.HasPrefix(s, "tsc") || s == "no_timer_check" }) {
		t.Errorf("arguments of an emulated machine under KVM: %q", plan.Cmdline)
	}
	if !slices.Contains(plan.Cmdline, "pci=off") {
		t.Errorf("microvm has no PCI: %q", plan.Cmdline)
	}
	plan, err = New(Config{Emulated: true, TSCKHz: -1}).Plan(a, enough)
	if err != nil || slices.ContainsFunc(plan.Cmdline, func(s string) bool { return strings.HasPrefix(s, "tsc") }) {
		t.Errorf("a counter that nobody relies on: %q, %v", plan.Cmdline, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	impossible, invalid := unikernel.ErrNotImplemented, unikernel.ErrInvalid
	drop := func(s *specs.Spec, ns specs.LinuxNamespaceType) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == ns })
	}
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		is     error
		says   string
	}{
		{"host network", func(s *specs.Spec) { drop(s, specs.NetworkNamespace) }, impossible, "host's network namespace"},
		{"host pid", func(s *specs.Spec) { drop(s, specs.PIDNamespace) }, impossible, "host's pid namespace"},
		{"host ipc", func(s *specs.Spec) { drop(s, specs.IPCNamespace) }, impossible, "host's ipc namespace"},
		{"host uts", func(s *specs.Spec) { drop(s, specs.UTSNamespace) }, impossible, "host's uts namespace"},
		{"scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedRR} }, impossible, "SCHED_RR"},
		{"joined pid", func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" }, impossible, "/proc/1/ns/pid"},
		{"user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		}, impossible, "user namespaces"},
		{"uid mapping", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, impossible, "user namespaces"},
		{"kvm", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
		}, impossible, "/dev/kvm (c 10:232)"},
		{"disk", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
		}, impossible, "/dev/sda"},
		{"device type", func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} }, invalid, `"z"`},
		{"nfs", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/n", Type: "nfs", Source: "h:/"}}
		}, impossible, `"nfs"`},
		{"relative mount", func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "n", Type: "tmpfs"}} }, invalid, "not absolute"},
		{"tmpcopyup", func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/n", Type: "tmpfs", Options: []string{"tmpcopyup"}}}
		}, impossible, "tmpcopyup"},
		{"hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/x"}}} }, impossible, "startContainer"},
		{"no process", func(s *specs.Spec) { s.Process = nil }, invalid, "no process"},
		{"no arguments", func(s *specs.Spec) { s.Process.Args = nil }, invalid, "no arguments"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "x" }, invalid, `"x"`},
		{"zero byte", func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} }, invalid, "zero byte"},
		{"rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, invalid, "RLIMIT_X"},
		{"rlimit order", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 2, Hard: 1}}
		}, invalid, "above the hard limit"},
		{"sysctl", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"../x": "1"} }, invalid, "../x"},
		{"windows", func(s *specs.Spec) { s.Windows = &specs.Windows{} }, invalid, "not for Linux"},
		{"no linux", func(s *specs.Spec) { s.Linux = nil }, invalid, "no linux section"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := testApp()
			c.change(a.Spec)
			_, err := New(Config{}).Plan(a, enough)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v that says %q", err, c.is, c.says)
			}
		})
	}
	for machine, least := range map[string]string{"microvm": "40 MiB", "pc": "40 MiB", "q35": "32 MiB"} {
		_, err := New(Config{Machine: machine}).Plan(testApp(), unikernel.Resources{MemoryMiB: 31, VCPUs: 1})
		if !errors.Is(err, invalid) || !strings.Contains(err.Error(), "31 MiB") || !strings.Contains(err.Error(), least) {
			t.Errorf("too little memory on %s: %v", machine, err)
		}
	}
	if _, err := New(Config{ExtraCmdline: []string{"a b"}}).Plan(testApp(), enough); !errors.Is(err, invalid) {
		t.Errorf("kernel argument with a space: %v", err)
	}
	if _, err := New(Config{}).Plan(unikernel.App{}, enough); !errors.Is(err, invalid) {
		t.Errorf("no specification: %v", err)
	}
}

// TestPrivileged: a container that may have every device gets its machine's; those of
// the host are named.
func TestPrivileged(t *testing.T) {
	a := testApp()
	s := a.Spec.Linux
	s.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}, {Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, {Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
	all := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	none, major := all, int64(8)
	none.Allow = false
	disks, readable := all, all
	disks.Major, readable.Access = &major, "rm"
	for name, tt := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		all   bool
	}{
		"privileged": {[]specs.LinuxDeviceCgroup{none, disks, all}, true},
		"not":        {[]specs.LinuxDeviceCgroup{none, disks, readable}, false},
		"no more":    {[]specs.LinuxDeviceCgroup{all, none}, false},
		"no rules":   {nil, false},
	} {
		s.Resources = &specs.LinuxResources{Devices: tt.rules}
		plan, err := New(Config{}).Plan(a, enough)
		if !tt.all {
			first := "/dev/sda (b 8:0)"
			if name == "not" { // that disk may be read, and becomes one
				first = "/dev/kvm (c 10:232)"
			}
			if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), "--privileged") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(plan.Without, []string{"the host's devices, /dev/sda and 1 others: it has those of its machine"}) {
			t.Errorf("%s: without %q, %v", name, plan.Without, err)
		}
		c := describe(a.Spec)
		if len(c.Devices) != 2 || c.Devices[0].Path != "/dev/fuse" || c.Devices[1] != (wire.Device{Type: wire.AllDevices}) {
			t.Errorf("%s: devices %+v", name, c.Devices)
		}
	}
}

// TestBlockDevices: block devices of the host become disks, with the rights that the
// rules give.
func TestBlockDevices(t *testing.T) {
	a := testApp()
	mode, group := os.FileMode(0o660), uint32(6)
	a.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/data", Type: "b", Major: 7, Minor: 1, FileMode: &mode, GID: &group}, {Path: "/dev/other", Type: "b", Major: 8}}
	rule := func(allow bool, major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "b", Major: &major, Minor: &minor, Access: access}
	}
	a.Spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Access: "rwm"}, rule(true, 7, 1, "rwm"), rule(true, 8, -1, "r")}}
	plan, err := New(Config{}).Plan(a, enough)
	if err != nil {
		t.Fatal(err)
	}
	last := plan.Disks[len(plan.Disks)-2:]
	if last[0].Kind != unikernel.DiskDevice || last[0].ReadOnly || last[0].Device.Minor != 1 || !last[1].ReadOnly || last[0].Serial == last[1].Serial {
		t.Errorf("disks %+v", last)
	}
	last[0].Serial = "key-2"
	c, err := container(a, plan.Disks)
	if err != nil {
		t.Fatal(err)
	}
	want := []wire.Device{
		{Path: "/dev/data", Type: 'b', Mode: 0o660, GID: 6, Serial: "key-2"},
		{Path: "/dev/other", Type: 'b', Mode: 0o666, Serial: last[1].Serial, ReadOnly: true},
	}
	if !reflect.DeepEqual(c.Devices, want) {
		t.Errorf("devices %+v, want %+v", c.Devices, want)
	}
}

func TestConvertProcess(t *testing.T) {
	umask, score := uint32(0o077), -5
	w, err := process(&specs.Process{
		Args: []string{"a"}, Cwd: "/", Terminal: true, ConsoleSize: &specs.Box{Width: 80, Height: 1 << 20},
		User:        specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}, Umask: &umask},
		OOMScoreAdj: &score, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_RTTIME", Soft: 1, Hard: 2}},
		Capabilities: &specs.LinuxCapabilities{Effective: []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_OF_THE_FUTURE"}},
	}, &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}, unikernel.Stdio{Stdin: strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Process{Args: []string{"a"}, Cwd: "/", Terminal: true, Width: 80, Height: 1<<16 - 1, UID: 1, GID: 2,
		Groups: []uint32{3}, Umask: 0o077, SetOOMScoreAdj: true, OOMScoreAdj: -5, Stdin: true,
		Rlimits: []wire.Rlimit{{Resource: 15, Soft: 1, Hard: 2}}, Caps: wire.Caps{Effective: 1 | 1<<40}}
	if !reflect.DeepEqual(w, want) {
		t.Errorf("got %+v\nwant %+v", w, want)
	}
	w, err = process(&specs.Process{Args: []string{"a"}, Cwd: "/"}, &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}, unikernel.Stdio{})
	if err != nil || w.Caps.Bounding != 1<<5 || w.Umask != 0o022 {
		t.Errorf("defaults: %+v, %v", w, err)
	}
}

func TestBindShares(t *testing.T) {
	a := testApp()
	hosts := specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/h", Options: []string{"ro"}}
	data := specs.Mount{Destination: "/data", Source: "/d", Options: []string{"rbind"}}
	key, top := specs.Mount{Destination: "/key", Type: "bind", Source: "/v/key"}, specs.Mount{Destination: "/v", Type: "bind", Source: "/v"}
	a.Spec.Mounts = []specs.Mount{hosts, {Destination: "/proc", Type: "proc", Source: "proc"}, key, data, top}
	a.Volumes = []unikernel.VolumeMount{{Mount: top, Volume: "1"}, {Mount: key, Volume: "1", Path: "key"}}
	shares := []unikernel.SharedMount{{Mount: hosts, Name: "0"}, {Mount: data, Name: "1"}}
	a.Shares = shares
	c, err := container(a, disks(a.Spec))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []wire.Mount{
		{Destination: "/etc/hosts", Type: "bind", Source: "0", Options: []string{"ro"}},
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/key", Type: "volume", Source: "1/key"},
		{Destination: "/data", Type: "bind", Source: "1", Options: []string{"rbind"}},
		{Destination: "/v", Type: "volume", Source: "1"},
	} {
		if !reflect.DeepEqual(c.Mounts[i], want) {
			t.Errorf("mount %d is %+v", i, c.Mounts[i])
		}
	}
	a.Shares = shares[:1]
	if _, err := container(a, disks(a.Spec)); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "/data") {
		t.Errorf("a bind mount without a share: %v", err)
	}
}

// TestGuestDevices: no device is promised for which the kernel has no driver; those
// that are not named here are every kernel's.
func TestGuestDevices(t *testing.T) {
	text, err := os.ReadFile("kernel/uni.config")
	if err != nil {
		t.Fatal(err)
	}
	for number, option := range map[[2]int64]string{{10, 200}: "CONFIG_TUN=y", {10, 229}: "CONFIG_FUSE_FS=y", {10, 232}: "CONFIG_KVM=y", {10, 237}: "CONFIG_BLK_DEV_LOOP=y"} {
		if has := strings.Contains(string(text), "\n"+option+"\n"); guestDevices[number] && !has {
			t.Errorf("device %v is promised, and the kernel has no %s", number, option)
		}
	}
}
