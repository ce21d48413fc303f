package libvirt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// TestShape: what may differ between a machine and the one whose state it goes on
// from does not change the shape, and everything else does.
func TestShape(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	kernel, other := file("kernel"), file("other")
	file(emulator)
	t.Setenv("PATH", dir)
	machine := func() unikernel.Machine {
		return unikernel.Machine{
			Name: "a", Title: "ns/a", Type: machineMicroVM, Resources: unikernel.Resources{MemoryMiB: 256, VCPUs: 1},
			Kernel: kernel, Cmdline: []string{"quiet"}, Console: "/run/a/console",
			Disks:    []unikernel.Disk{{Path: "/d/root", Format: "raw", Serial: "root", ReadOnly: true}, {Path: "/d/w", Format: "raw", Serial: "w"}},
			NICs:     []unikernel.NIC{{Tap: "t0", MAC: "52:54:00:12:34:56", MTU: 1500, Queues: 1}},
			Channels: []unikernel.Channel{{Name: "uni.ctl", Socket: "/run/a/ctl"}},
		}
	}
	host := Host{Libvirt: version(9, 0, 0), Firmware: file("qboot.rom")}
	shape := func(h Host, change func(*unikernel.Machine)) string {
		t.Helper()
		m := machine()
		change(&m)
		s, err := (&Driver{host: h}).Shape(m)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := shape(host, func(*unikernel.Machine) {})
	for what, change := range map[string]func(*unikernel.Machine){
		"name":    func(m *unikernel.Machine) { m.Name, m.Title, m.NetNS = "b", "ns/b", "/run/netns/b" },
		"sockets": func(m *unikernel.Machine) { m.Console, m.Channels[0].Socket = "/run/b/console", "/run/b/ctl" },
		"disks":   func(m *unikernel.Machine) { m.Disks[0].Path, m.Disks[1].Serial = "/d/b", "b" },
		"nic": func(m *unikernel.Machine) {
			m.NICs[0] = unikernel.NIC{Tap: "t1", MAC: "52:54:00:12:34:57", MTU: 1400, Queues: 1}
		},
		"state": func(m *unikernel.Machine) { m.Saved = "/state" },
	} {
		if got := shape(host, change); got != want {
			t.Errorf("another %s is another shape", what)
		}
	}
	seen := map[string]string{want: "the first"}
	differ := func(what, got string) {
		t.Helper()
		if seen[got] != "" {
			t.Errorf("another %s is the shape of %s", what, seen[got])
		}
		seen[got] = what
	}
	for what, change := range map[string]func(*unikernel.Machine){
		"memory": func(m *unikernel.Machine) { m.MemoryMiB++ }, "vcpus": func(m *unikernel.Machine) { m.VCPUs++ },
		"type": func(m *unikernel.Machine) { m.Type = machineQ35 }, "kernel": func(m *unikernel.Machine) { m.Kernel = other },
		"initrd": func(m *unikernel.Machine) { m.Initrd = other }, "command line": func(m *unikernel.Machine) { m.Cmdline = []string{"quiet", "a"} },
		"number of disks": func(m *unikernel.Machine) { m.Disks = m.Disks[:1] }, "number of NICs": func(m *unikernel.Machine) { m.NICs = nil },
		"number of queues": func(m *unikernel.Machine) { m.NICs[0].Queues = 2 }, "balloon": func(m *unikernel.Machine) { m.ReportsFree = true },
		"controller": func(m *unikernel.Machine) { m.LUNs = true }, "disk that is read": func(m *unikernel.Machine) { m.Disks[1].ReadOnly = true },
	} {
		differ(what, shape(host, change))
	}
	for what, change := range map[string]func(*Host){
		"accelerator": func(h *Host) { h.KVM = true }, "libvirt": func(h *Host) { h.Libvirt++ },
	} {
		h := host
		change(&h)
		differ(what, shape(h, func(*unikernel.Machine) {}))
	}
	for _, path := range []string{kernel, host.Firmware, filepath.Join(dir, emulator)} {
		if err := os.WriteFile(path, []byte("replaced"), 0o755); err != nil {
			t.Fatal(err)
		}
		differ("file "+path, shape(host, func(*unikernel.Machine) {}))
	}
}

func TestProcessorOf(t *testing.T) {
	const first = "processor\t: 0\nmodel name\t: X\nmicrocode\t: 0x1\ncpu MHz\t\t: 1.5\nflags\t\t: a b\n\nprocessor\t: 1\nmodel name\t: Y\n"
	if got, want := processorOf(strings.NewReader(first)), "model name\t: X\nmicrocode\t: 0x1\nflags\t\t: a b\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
