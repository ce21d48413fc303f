package main

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/builder"
	"containerd-shim-uni/builder/kernels"
	"containerd-shim-uni/builder/kernels/kerneltest"
	"containerd-shim-uni/config"
)

const libvirtSO = "/usr/lib/x86_64-linux-gnu/libvirt.so.0"
const qboot = "/usr/share/qemu/qboot.rom"

// goodHost is a host on which all is well. Its programs print "<name> 1.0".
func goodHost(t *testing.T) (host, config.Config) {
	t.Helper()
	h := host{
		root: t.TempDir(), arch: "amd64", probeKVM: func() error { return nil }, probeMounts: func() error { return nil },
		probeLists: func(string) error { return nil },
		output: func(_ context.Context, program string, _ ...string) (string, error) {
			return filepath.Base(program) + " 1.0", nil
		},
	}
	c := config.Default()
	for _, name := range []string{"/usr/bin/qemu-system-x86_64", "/usr/local/bin/" + shimName, "/usr/local/bin/" + serverName, "/usr/bin/containerd", "/usr/sbin/mke2fs", "/usr/lib/qemu/virtiofsd"} {
		write(t, h.root+name, "", 0o755)
	}
	write(t, h.root+"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so", "", 0o644)
	write(t, h.root+"/usr/share/qemu/vhost-user/50.json", `{"type": "fs", "binary": "/usr/lib/qemu/virtiofsd"}`, 0o644)
	write(t, h.root+qboot, "", 0o644)
	if err := os.Symlink("libvirt.so.0.9000.0", h.root+libvirtSO); err != nil {
		t.Fatal(err)
	}
	write(t, h.root+"/etc/debian_version", "12.15\n", 0o644)
	write(t, h.root+"/etc/passwd", "root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:107::/:/bin/false\n", 0o644)
	write(t, h.root+"/dev/net/tun", "", 0o644)
	write(t, h.root+"/dev/kvm", "", 0o600)
	if err := os.Chmod(h.root+"/dev/kvm", 0o660); err != nil { // whatever the umask
		t.Fatal(err)
	}
	write(t, h.root+"/proc/sys/kernel/osrelease", "6.1.0-41-amd64\n", 0o644)
	write(t, h.root+"/proc/sys/fs/inotify/max_user_instances", "1024\n", 0o644)
	write(t, h.root+"/proc/sys/fs/inotify/max_user_watches", "65536\n", 0o644)
	write(t, h.root+"/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n", 0o644)
	write(t, h.root+c.Linux.Kernel, elfFile(elf.EM_X86_64, "Xen\x00", kerneltest.PVH), 0o644)
	write(t, h.root+filepath.Dir(c.Linux.Kernel)+"/kernel.config", strings.Join(kernels.LinuxOptions(), "=y\n")+"=y\n", 0o644)
	write(t, h.root+c.Linux.Initrd, "x", 0o644)
	return h, c
}

func elfFile(machine elf.Machine, note string, kind uint32) string {
	return string(kerneltest.Kernel{Machine: machine, Note: note, NoteType: kind}.Bytes())
}

// TestOwnKernel: what a kernel of the user's own lacks is named, with what it is for.
func TestOwnKernel(t *testing.T) {
	h, c := goodHost(t)
	options := h.root + filepath.Dir(c.Linux.Kernel) + "/kernel.config"
	text, err := os.ReadFile(options)
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[string]struct{ level, says string }{
		"CONFIG_VIRTIO_FS=n":  {levelWarn, "does without bind mounts that are shared with the host: CONFIG_VIRTIO_FS, by /"},
		"CONFIG_EROFS_FS=m":   {levelFail, "has no CONFIG_EROFS_FS (as a module, which the guest does not load), by /"},
		"CONFIG_VIRTIO_PCI=n": {levelOK, "kernel.config"}, // a microvm has none
	} {
		name, _, _ := strings.Cut(change, "=")
		write(t, options, strings.Replace(string(text), name+"=y", change, 1), 0o644)
		if f := checkKernel(t.Context(), h, c); f.Level != want.level || !strings.Contains(f.Detail, want.says) {
			t.Errorf("%s: %+v", change, f)
		}
	}
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
	mode := func(path string, mode os.FileMode) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, _ *config.Config) {
			if err := os.Chmod(h.root+path, mode); err != nil {
				t.Fatal(err)
			}
		}
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
	closedAt := func(uri string) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, c *config.Config) {
			mode("/dev/kvm", 0o600)(t, h, c)
			c.Libvirt.URI = uri
		}
	}
	labels := func(uri, rules string) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, c *config.Config) {
			c.Libvirt.URI = uri
			write(t, h.root+"/sys/module/apparmor/parameters/enabled", "Y\n", 0o644)
			write(t, h.root+localProfile, rules, 0o644)
		}
	}
	noLists := func(t *testing.T, h *host, c *config.Config) {
		mode("/dev/kvm", 0o600)(t, h, c)
		h.probeLists = func(string) error { return broken }
	}
	noMounts := func(isolation string) func(*testing.T, *host, *config.Config) {
		return func(_ *testing.T, h *host, c *config.Config) {
			h.probeMounts = func() error { return broken }
			c.Libvirt.Isolation = isolation
		}
	}
	nothing := func(*testing.T, *host, *config.Config) {}
	uri := func(uri string) func(*testing.T, *host, *config.Config) {
		return func(_ *testing.T, _ *host, c *config.Config) { c.Libvirt.URI = uri }
	}
	// nanosAs puts a kernel of nanos where the default is.
	nanosAs := func(guest, machine string, without ...string) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, c *config.Config) {
			c.Guest, c.Nanos.Machine = guest, machine
			kerneltest.Write(t, h.root+filepath.Join(c.Storage.NanosDir(), "0.1.55"), kerneltest.Release(""))
			if err := os.Symlink("0.1.55", h.root+c.Storage.CurrentNanos()); err != nil {
				t.Fatal(err)
			}
			for _, name := range without {
				if err := os.Remove(h.root + name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	noQboot := func(guest, linux string) func(*testing.T, *host, *config.Config) {
		return func(t *testing.T, h *host, c *config.Config) {
			c.Guest, c.Linux.Machine = guest, linux
			remove(qboot)(t, h, c)
		}
	}
	const description = "/usr/share/qemu/vhost-user/50.json"
	nanosDir := config.Default().Nanos.Kernel
	kernel, initrd := config.Default().Linux.Kernel, config.Default().Linux.Initrd
	tests := []struct {
		check  string
		change func(*testing.T, *host, *config.Config)
		level  string
		want   string // in detail or action
	}{
		{"platform", func(_ *testing.T, h *host, _ *config.Config) { h.arch = "arm64" }, levelFail, "arm64"},
		{"platform", func(_ *testing.T, h *host, _ *config.Config) { h.uid = 1000 }, levelWarn, "root"},
		{"accel", mode("/dev/kvm", 0o600), levelOK, "KVM runs"},
		{"accel", noLists, levelWarn, "chgrp kvm /dev/kvm"},
		{"accel", closedAt("qemu:///system"), levelWarn, "a minute"},
		{"accel", mode("/dev/kvm", 0o666), levelOK, "KVM runs"},
		{"accel", noKVM("auto"), levelWarn, "broken"},
		{"accel", noKVM("kvm"), levelFail, "libvirt.accel"},
		{"accel", noKVM("tcg"), levelWarn, "emulation"},
		{"qemu", remove("/usr/bin/qemu-system-x86_64"), levelFail, "install qemu-system-x86"},
		{"qemu", noOutput, levelFail, "broken"},
		{"firmware", remove(qboot), levelFail, "qemu-system-data"},
		{"firmware", noQboot("linux", "q35"), levelWarn, "q35 take longer"},
		{"firmware", noQboot("nanos", "q35"), levelFail, "nanos do not boot"},
		{"firmware", noQboot("image", "pc"), levelFail, "microvm"},
		{"libvirt", remove("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so"), levelFail, "install libvirt-daemon-driver-qemu"},
		{"libvirt", remove(libvirtSO), levelFail, "install libvirt0"},
		{"libvirt", func(t *testing.T, h *host, c *config.Config) {
			remove(libvirtSO)(t, h, c)
			if err := os.Symlink("libvirt.so.0.8000.0", h.root+libvirtSO); err != nil {
				t.Fatal(err)
			}
		}, levelFail, "libvirt 8.0 is too old"},
		{"libvirt", remove("/etc/passwd"), levelFail, "no user libvirt-qemu"},
		{"libvirt", uri("qemu:///system"), levelFail, "start libvirtd"},
		{"libvirt", uri("qemu:///embed?root=/x"), levelOK, "embedded"},
		{"isolation", noMounts(config.IsolationAuto), levelWarn, "broken"},
		{"isolation", noMounts(config.IsolationStrict), levelFail, "CAP_SYS_ADMIN"},
		{"isolation", remove("/etc/passwd"), levelWarn, "as root"},
		{"isolation", noLists, levelWarn, "one group"},
		{"labels", nothing, levelOK, "neither"},
		{"labels", labels("qemu:///embed", ""), levelOK, "AppArmor, not used"},
		{"labels", labels("qemu:///system", ""), levelWarn, "/run/uni/*/share.sock rw,"},
		{"labels", labels("qemu:///system", "  /run/uni/*/share.sock rw,\n"), levelOK, "used for QEMU by libvirtd"},
		{"labels", func(t *testing.T, h *host, c *config.Config) {
			write(t, h.root+"/sys/fs/selinux/enforce", "1", 0o644)
			c.Libvirt.URI = "qemu:///system"
		}, levelOK, "SELinux, used"},
		{"shim", remove("/usr/local/bin/" + shimName), levelFail, "no " + shimName},
		{"shim", remove("/usr/local/bin/" + serverName), levelFail, "no " + serverName},
		{"shim", noOutput, levelFail, "broken"},
		{"containerd", remove("/usr/bin/containerd"), levelFail, "install containerd"},
		{"containerd", noOutput, levelFail, "broken"},
		{"containerd", set("/etc/containerd/config.toml", `runtime_type = "io.containerd.uni.v1"`), levelOK, "configured in /etc/containerd/config.toml"},
		{"kernel", remove(kernel), levelFail, "no such file"},
		{"kernel", set(kernel, "MZ bzImage"), levelFail, "no ELF file"},
		{"kernel", set(kernel, elfFile(elf.EM_AARCH64, "Xen\x00", kerneltest.PVH)), levelFail, "EM_AARCH64"},
		{"kernel", set(kernel, elfFile(elf.EM_X86_64, "GNU\x00", kerneltest.PVH)), levelFail, "CONFIG_PVH"},
		{"kernel", set(kernel, elfFile(elf.EM_X86_64, "Xen\x00", 1)), levelFail, "CONFIG_PVH"},
		{"initrd", remove(initrd), levelFail, "no such file"},
		{"initrd", set(initrd, ""), levelFail, "no file with contents"},
		{"nanos", nothing, levelOK, "not installed, and not needed by the guest \"linux\" (uni kernel install nanos)"},
		{"nanos", func(_ *testing.T, _ *host, c *config.Config) { c.Guest = "nanos" }, levelFail, "run uni kernel install nanos"},
		{"nanos", func(_ *testing.T, _ *host, c *config.Config) { c.Nanos.Kernel = "/my/nanos" }, levelWarn, "/my/nanos"},
		{"nanos", nanosAs("nanos", "auto"), levelOK, "version 0.1.55, built from 0123456789ab"},
		{"nanos", nanosAs("nanos", "auto", nanosDir+"/boot.img"), levelFail, "boot.img"},
		{"nanos", nanosAs("linux", "auto", nanosDir), levelOK, "not installed"},
		{"mke2fs", remove("/usr/sbin/mke2fs"), levelFail, "install e2fsprogs"},
		{"virtiofsd", remove(description), levelWarn, "a package of its own"},
		{"virtiofsd", remove("/usr/lib/qemu/virtiofsd"), levelWarn, "which is not there: containers cannot have bind mounts"},
		{"virtiofsd", set(description, "{"), levelWarn, "cannot read " + description},
		{"virtiofsd", nothing, levelOK, "the one in C of QEMU up to version 7; below bind mounts: a shared mapping of a file that is open for appending"},
		{"virtiofsd", set(description, `{"type": "fs", "binary": "/usr/lib/qemu/virtiofsd", "features": ["separate-options"]}`),
			levelOK, "the one in Rust; below bind mounts: locks"},
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
	const virtlogd, conf = "/run/libvirt/virtlogd-sock", "/etc/libvirt/qemu.conf"
	tests := []struct {
		name  string
		files map[string]string
		level string
		want  string
	}{
		{"both", map[string]string{virtlogd: ""}, levelOK, "libvirt-sock"},
		{"no virtlogd", nil, levelFail, "virtlogd -d"},
		{"no virtlogd, the default", map[string]string{conf: "#stdio_handler = \"file\"\n"}, levelFail, "virtlogd"},
		{"no virtlogd, files", map[string]string{conf: "x = 1\nstdio_handler = \"file\"\n"}, levelOK, "libvirt-sock"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, c := goodHost(t)
			c.Libvirt.URI = "qemu:///system"
			write(t, h.root+"/run/libvirt/libvirt-sock", "", 0o644)
			for path, text := range tt.files {
				write(t, h.root+path, text, 0o644)
			}
			if f := checkLibvirt(t.Context(), h, c); f.Level != tt.level || !strings.Contains(f.Detail+" "+f.Action, tt.want) {
				t.Errorf("%+v, want %s with %q", f, tt.level, tt.want)
			}
		})
	}
}

func TestJudgeSpace(t *testing.T) {
	if f := judgeAbandoned(nil); f.Level != levelOK {
		t.Errorf("nothing abandoned: %+v", f)
	}
	if f := judgeAbandoned([]builder.Abandoned{{Bytes: 1 << 20}, {Bytes: 1 << 20}}); f.Level != levelWarn || !strings.Contains(f.Detail, "2, with 2.0MiB") {
		t.Errorf("two abandoned: %+v", f)
	}
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
