package main

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/config"
)

// goodHost is a host on which all is well. Its programs print "<name> 1.0".
func goodHost(t *testing.T) (host, config.Config) {
	t.Helper()
	h := host{
		root: t.TempDir(), arch: "amd64", probeKVM: func() error { return nil },
		output: func(_ context.Context, program string, _ ...string) (string, error) {
			return filepath.Base(program) + " 1.0", nil
		},
	}
	c := config.Default()
	for _, name := range []string{"/usr/bin/qemu-system-x86_64", "/usr/local/bin/" + shimName, "/usr/bin/containerd", "/usr/sbin/mke2fs", "/usr/lib/qemu/virtiofsd"} {
		write(t, h.root+name, "", 0o755)
	}
	write(t, h.root+"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so", "", 0o644)
	write(t, h.root+"/usr/share/qemu/vhost-user/50.json", `{"type": "fs", "binary": "/usr/lib/qemu/virtiofsd"}`, 0o644)
	write(t, h.root+"/etc/debian_version", "12.15\n", 0o644)
	write(t, h.root+"/etc/passwd", "root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:107::/:/bin/false\n", 0o644)
	write(t, h.root+"/dev/net/tun", "", 0o644)
	write(t, h.root+"/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n", 0o644)
	write(t, h.root+c.Linux.Kernel, string(elfWithNote(62, "Xen\x00", phys32Entry)), 0o644)
	write(t, h.root+c.Linux.Initrd, "x", 0o644)
	return h, c
}

// elfWithNote is a 64-bit little-endian ELF file with one note segment.
func elfWithNote(machine uint16, name string, kind uint32) []byte {
	le := binary.LittleEndian
	note := le.AppendUint32(nil, uint32(len(name)))
	note = le.AppendUint32(note, 8)
	note = le.AppendUint32(note, kind)
	note = append(note, name...)
	note = append(note, make([]byte, 8)...)

	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, 64) // program headers follow
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 4) // PT_NOTE
	b = le.AppendUint32(b, 4)
	for _, v := range []uint64{120, 0, 0, uint64(len(note)), uint64(len(note)), 4} {
		b = le.AppendUint64(b, v)
	}
	return append(b, note...)
}

func TestAGoodHost(t *testing.T) {
	h, c := goodHost(t)
	for _, check := range checks {
		if f := check.run(t.Context(), h, c); f.Level != levelOK || f.Detail == "" || f.Action != "" {
			t.Errorf("%s: %+v", check.name, f)
		}
	}
}

func TestChecks(t *testing.T) {
	broken := errors.New("broken")
	remove := func(paths ...string) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, _ *config.Config) {
			for _, p := range paths {
				if err := os.Remove(h.root + p); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	set := func(path, text string) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, _ *config.Config) { write(t, h.root+path, text, 0o644) }
	}
	noOutput := func(_ *testing.T, h *host, _ *config.Config) {
		h.output = func(context.Context, string, ...string) (string, error) { return "", broken }
	}
	noKVM := func(accel string) func(*testing.T, *host, *config.Config) {
		return func(_ *testing.T, h *host, c *config.Config) {
			h.probeKVM = func() error { return broken }
			c.Libvirt.Accel = accel
		}
	}
	uri := func(uri string) func(*testing.T, *host, *config.Config) {
		return func(_ *testing.T, _ *host, c *config.Config) { c.Libvirt.URI = uri }
	}
	kernel, initrd := config.Default().Linux.Kernel, config.Default().Linux.Initrd
	tests := []struct {
		check  string
		change func(*testing.T, *host, *config.Config)
		level  string
		want   string // in detail or action
	}{
		{"platform", func(_ *testing.T, h *host, _ *config.Config) { h.arch = "arm64" }, levelFail, "arm64"},
		{"platform", func(_ *testing.T, h *host, _ *config.Config) { h.uid = 1000 }, levelWarn, "root"},
		{"accel", noKVM("auto"), levelWarn, "broken"},
		{"accel", noKVM("kvm"), levelFail, "libvirt.accel"},
		{"accel", noKVM("tcg"), levelWarn, "emulation"},
		{"qemu", remove("/usr/bin/qemu-system-x86_64"), levelFail, "install qemu-system-x86"},
		{"qemu", noOutput, levelFail, "broken"},
		{"libvirt", remove("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so"), levelFail, "install libvirt-daemon-driver-qemu"},
		{"libvirt", remove("/etc/passwd"), levelFail, "no user libvirt-qemu"},
		{"libvirt", uri("qemu:///system"), levelFail, "start libvirtd"},
		{"libvirt", uri("qemu:///embed?root=/x"), levelOK, "embedded"},
		{"shim", remove("/usr/local/bin/" + shimName), levelFail, "no " + shimName},
		{"shim", noOutput, levelFail, "broken"},
		{"containerd", remove("/usr/bin/containerd"), levelFail, "install containerd"},
		{"containerd", noOutput, levelFail, "broken"},
		{"containerd", set("/etc/containerd/config.toml", `runtime_type = "io.containerd.uni.v1"`), levelOK, "configured in /etc/containerd/config.toml"},
		{"kernel", remove(kernel), levelFail, "no such file"},
		{"kernel", set(kernel, "MZ bzImage"), levelFail, "no ELF file"},
		{"kernel", set(kernel, string(elfWithNote(183, "Xen\x00", phys32Entry))), levelFail, "EM_AARCH64"},
		{"kernel", set(kernel, string(elfWithNote(62, "GNU\x00", phys32Entry))), levelFail, "CONFIG_PVH"},
		{"kernel", set(kernel, string(elfWithNote(62, "Xen\x00", 1))), levelFail, "CONFIG_PVH"},
		{"initrd", remove(initrd), levelFail, "no such file"},
		{"initrd", set(initrd, ""), levelFail, "no file with contents"},
		{"mke2fs", remove("/usr/sbin/mke2fs"), levelFail, "install e2fsprogs"},
		{"virtiofsd", remove("/usr/share/qemu/vhost-user/50.json"), levelWarn, "no virtiofsd is described"},
		{"virtiofsd", remove("/usr/lib/qemu/virtiofsd"), levelWarn, "names /usr/lib/qemu/virtiofsd, which is not there"},
		{"virtiofsd", set("/usr/share/qemu/vhost-user/50.json", "{"), levelWarn, "no virtiofsd is described"},
		{"network", remove("/dev/net/tun"), levelWarn, "module tun"},
		{"cgroup", remove("/sys/fs/cgroup/cgroup.controllers"), levelFail, "no cgroup hierarchy"},
		{"cgroup", set("/sys/fs/cgroup/cgroup.controllers", "cpu pids\n"), levelWarn, `"memory"`},
		{"storage", func(_ *testing.T, _ *host, c *config.Config) { c.Storage.DataDir = "/not/there/yet" }, levelOK, "/not/there/yet has"},
	}
	for _, tt := range tests {
		t.Run(tt.check+"/"+tt.want, func(t *testing.T) {
			h, c := goodHost(t)
			tt.change(t, &h, &c)
			for _, check := range checks {
				if check.name != tt.check {
					continue
				}
				f := check.run(t.Context(), h, c)
				if f.Level != tt.level || !strings.Contains(f.Detail+" "+f.Action, tt.want) {
					t.Errorf("%+v, want %s with %q", f, tt.level, tt.want)
				}
				if f.Level == levelFail && f.Action == "" {
					t.Errorf("%+v does not say what to do", f)
				}
			}
		})
	}
}

func TestCgroupVersion1(t *testing.T) {
	h, c := goodHost(t)
	if err := os.Remove(h.root + "/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Fatal(err)
	}
	write(t, h.root+"/sys/fs/cgroup/memory/x", "", 0o644)
	if f := checkCgroup(t.Context(), h, c); f.Level != levelOK || f.Detail != "version 1" {
		t.Errorf("%+v", f)
	}
}

func TestLibvirtDaemon(t *testing.T) {
	h, c := goodHost(t)
	c.Libvirt.URI = "qemu:///system"
	write(t, h.root+"/run/libvirt/libvirt-sock", "", 0o644)
	if f := checkLibvirt(t.Context(), h, c); f.Level != levelOK {
		t.Errorf("%+v", f)
	}
}

func TestJudgeSpace(t *testing.T) {
	if f := judgeSpace("/d", lowSpace-1, 0); f.Level != levelWarn || f.Action == "" {
		t.Errorf("%+v", f)
	}
	if f := judgeSpace("/d", lowSpace, 0); f.Level != levelOK {
		t.Errorf("%+v", f)
	}
}

func TestExamineGoesOnWithAWrongFile(t *testing.T) {
	h, _ := goodHost(t)
	bad := write(t, filepath.Join(t.TempDir(), "bad.toml"), "x = 1", 0o600)
	findings := examine(t.Context(), h, bad)
	if len(findings) != len(checks)+1 || findings[0].Check != "config" || findings[0].Level != levelFail || !strings.Contains(findings[0].Detail, "unknown key x") {
		t.Errorf("%+v", findings)
	}
	for _, f := range findings[1:] {
		if f.Level != levelOK || f.Check == "" {
			t.Errorf("%+v", f)
		}
	}
}

func FuzzHasNote(f *testing.F) {
	f.Add(elfWithNote(62, "Xen\x00", phys32Entry)[120:])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 18, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if hasNote(data, "Xen\x00", phys32Entry) && !strings.Contains(string(data), "Xen\x00") {
			t.Error("found a name that is not there")
		}
	})
}
