package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"containerd-shim-uni/integration/image"
	"containerd-shim-uni/integration/peer"
)

// kernels is an image that carries kernels, initial RAM disk and disks, and
// what looks like them.
const kernels = "uni.local/kernels:latest"

// onKernels is on, with that image and the annotations that come with no
// configuration.
func onKernels(t *testing.T, test func(*testing.T, *host)) {
	t.Helper()
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		if !exists(archive(kernels)) {
			makeKernels(t)
		}
		h.load(t, kernels)
		h.with(t, settings{"annotations.allowed": `["guest", "memory", "vcpus", "kernel", "initrd", "disk", "cmdline", "exit", "virtio", "rng"]`})
		test(t, h)
	})
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// copyTo copies files of the host into a directory.
func copyTo(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, from := range files {
		data := must[[]byte](t)(os.ReadFile(from))
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// guestInit is the first process of the Linux kernel that the image carries: it
// shows what that got and writes to the disk.
const guestInit = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
read line </proc/cmdline
echo "cmdline: $line"
if [ -b /dev/vda ]; then
	read text </dev/vda
	echo "disk: $text"
	(echo changed >/dev/vda) 2>/dev/null && /bin/busybox sync
	read text </dev/vda
	echo "disk: $text"
fi
/bin/busybox poweroff -f
`

func makeKernels(t *testing.T) {
	t.Helper()
	dir, root := t.TempDir(), t.TempDir()
	copyTo(t, dir, map[string]string{"initrd/bin/busybox": must[string](t)(exec.LookPath("busybox"))})
	for _, name := range []string{"proc", "dev"} {
		if err := os.Mkdir(filepath.Join(dir, "initrd", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"initrd/init": guestInit, "text": "no kernel\n", "disk": "from the image\n" + strings.Repeat("\x00", 1<<20),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := image.Initrd(filepath.Join(dir, "initrd"), filepath.Join(dir, "initrd.img")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"convert", "-O", "qcow2", filepath.Join(dir, "disk"), filepath.Join(dir, "disk.qcow2")},
		{"create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", filepath.Join(dir, "backing.qcow2"), "1M"},
	} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %s: %v: %s", args[0], err, out)
		}
	}
	copyTo(t, root, map[string]string{
		"boot/multiboot":  must[string](t)(image.BuildProgram("image/program", dir, "MULTIBOOT")),
		"boot/placed":     must[string](t)(image.BuildProgram("image/program", dir, "PLACED")),
		"boot/pvh":        must[string](t)(image.BuildProgram("image/program", dir, "PVH")),
		"boot/vmlinux":    filepath.Join(world.out, "guest/vmlinux"),
		"boot/initrd.img": filepath.Join(dir, "initrd.img"),
		"disk.raw":        filepath.Join(dir, "disk"),
		"disk.qcow2":      filepath.Join(dir, "disk.qcow2"),
		"backing.qcow2":   filepath.Join(dir, "backing.qcow2"),
		"text":            filepath.Join(dir, "text"),
	})
	for name, target := range map[string]string{"kernel": "/boot/multiboot", "outside": "../../../../../../../../etc/shadow"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	i := image.Tree(kernels, root, v1.ImageConfig{Cmd: []string{"exit=0"}})
	if err := i.WriteFile(archive(kernels)); err != nil {
		t.Fatal(err)
	}
}

// carried is a container of that image with annotations, "name=value".
func carried(annotations ...string) container {
	c := container{image: kernels}
	for _, a := range annotations {
		c.flags = append(c.flags, "--annotation", "io.containerd.uni."+a)
	}
	return c
}

func TestImageMultiboot(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for _, kernel := range []string{"/boot/multiboot", "/boot/placed"} {
			got := h.run(t, carried("guest=image", "kernel="+kernel), "two words", `"quoted"`, "exit=42")
			if want := (peer.Result{Stdout: "multiboot: \"two words\" '\"quoted\"' exit=42\n", Code: 42}); got != want {
				t.Errorf("%s: got %+v, want %+v", kernel, got, want)
			}
		}
		// The guest is implied, a link is followed, the image's command is taken. A
		// line that does not begin with the program's name has it before.
		if got := h.run(t, carried("kernel=/kernel")); got.Code != 0 || got.Stdout != "multiboot: exit=0\n" {
			t.Errorf("got %+v", got)
		}
		c := carried("kernel=/boot/placed", "cmdline=env={env*} -- {rest}")
		c.flags = append(c.flags, "--env", "A=b c")
		if got := h.run(t, c, "/server", "exit=1"); !strings.HasPrefix(got.Stdout, "multiboot: /server env=PATH=") || !strings.HasSuffix(got.Stdout, ` "env=A=b c" -- exit=1`+"\n") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestImagePVH(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for _, machine := range []string{"auto", "q35"} {
			got := h.run(t, carried("kernel=/boot/pvh", "machine="+machine, "cmdline=id={id} {{}} -- {args}"), "exit=127")
			if want := (peer.Result{Stdout: "PVH: id=c1 {} -- exit=127\n", Code: 127}); got != want {
				t.Errorf("%s: got %+v, want %+v", machine, got, want)
			}
		}
	})
}

func TestImageEnds(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for command, code := range map[string]int{"poweroff": 0, "fault": 0, "panic": 255, "exit=41": 7, "exit=40": 40} {
			if got := h.run(t, carried("kernel=/boot/multiboot", "exit=41=7"), command); got.Code != code {
				t.Errorf("%s: got %+v, want status %d", command, got, code)
			}
		}
	})
}

func TestImageSignals(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		r := h.start(t, carried("kernel=/boot/multiboot"), "wait")
		r.expect(t, "waiting")
		for _, args := range [][]string{{"task", "kill", "-s", "SIGSTOP", "c1"}, {"task", "exec", "--exec-id", "e", "c1", "true"}} {
			if got := h.ctr(t, args...); got.Code == 0 || !strings.Contains(got.Stderr, `the guest "linux"`) {
				t.Errorf("%s: %+v", args[1], got)
			}
		}
		// Ignored by a program that has no window.
		h.ok(t, "task", "kill", "-s", "SIGWINCH", "c1")
		h.ok(t, "task", "kill", "-s", "SIGQUIT", "c1")
		r.expect(t, "button")
		if code := r.finish(); code != 0 {
			t.Errorf("after SIGQUIT the status is %d", code)
		}
		h.detach(t, carried("kernel=/boot/multiboot"), "wait")
		if code := h.remove(t, "c1"); code != 137 {
			t.Errorf("after SIGKILL the status is %d", code)
		}
	})
}

// A kernel that halts with interrupts off has ended: nothing wakes it.
func TestImageHalts(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for _, c := range []container{carried("kernel=/boot/multiboot"), carried("kernel=/boot/pvh")} {
			c.flags = append(c.flags, "--cpus", "2")
			if got := h.run(t, c, "halt"); got.Code != 255 || !strings.HasSuffix(got.Stdout, ": halt\n") {
				t.Errorf("%+v", got)
			}
		}
	})
}

// A Linux kernel learns its address from its command line, reads the disk of
// the image, and writes to a layer that the next container does not see.
func TestImageLinux(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		inside, _ := pod(t, "eth0")
		inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1`)
		cmdline := fmt.Sprintf("cmdline=console=ttyS0 quiet panic=-1 reboot=t no_timer_check tsc_early_khz=%d uni.lapic_hz=1000000000 ip={ip}::{gateway}:{netmask} -- {args}", hostKHz(t))
		for _, tt := range []struct {
			disk string
			more []string
			last string
		}{
			{"disk.raw", nil, "changed"},
			{"disk.qcow2", nil, "changed"},
			{"disk.raw", []string{"--read-only", "--annotation", "io.containerd.uni.virtio=modern", "--annotation", "io.containerd.uni.rng=off"}, "from the image"},
		} {
			c := carried("kernel=/boot/vmlinux", "initrd=/boot/initrd.img", "disk=/"+tt.disk, cmdline)
			c.flags = append(append(c.flags, join(inside)...), tt.more...)
			got := h.run(t, c, "a b")
			if got.Code != 0 {
				t.Errorf("%s %v: %+v", tt.disk, tt.more, got)
			}
			out := strings.ReplaceAll(got.Stdout, "\r", "")
			contains(t, out, `ip=10.0.0.2::10.0.0.1:255.255.255.0 -- "a b"`, "disk: from the image\ndisk: "+tt.last+"\n")
		}
	})
}

// bootSector is a disk with a first sector that writes to the serial port, and then a status
// to isa-debug-exit.
func bootSector(text string, status byte) []byte {
	code := []byte{0xba, 0xf8, 0x03} // mov dx, COM1
	for _, c := range []byte(text) {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	code = append(code, 0xba, 0x01, 0x05, 0xb0, status, 0xee, 0xf4) // mov dx, 0x501; mov al, status; out dx, al; hlt
	code = append(code, make([]byte, 510-len(code))...)
	code = append(code, 0x55, 0xaa)
	return append(code, make([]byte, 1<<20)...) // SeaBIOS takes no disk of a sector for one
}

// A disk without a kernel boots by the BIOS.
func TestImageDisk(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for _, machine := range []string{"pc", "q35"} {
			c := declared(t, h, "unused", map[string]string{
				"disk.raw": string(bootSector("BIOS\n", 5)), "uni.json": `{"disk": "/disk.raw", "machine": "` + machine + `"}`})
			if got := h.run(t, c); got.Stdout != "BIOS\n" || got.Code != 5 {
				t.Errorf("%s: got %+v", machine, got)
			}
		}
	})
}

// hostKHz is what an emulated kernel on microvm is told of its clock, see
// package linux.
func hostKHz(t *testing.T) int {
	t.Helper()
	for line := range strings.Lines(string(must[[]byte](t)(os.ReadFile("/proc/cpuinfo")))) {
		var mhz float64
		if n, _ := fmt.Sscanf(strings.ReplaceAll(line, "\t", ""), "cpu MHz: %f", &mhz); n == 1 {
			return int(mhz * 1000)
		}
	}
	return 0
}

// Whoever runs a kernel as a program is told how it boots.
func TestImageHint(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for _, kernel := range []string{"/boot/multiboot", "/boot/pvh"} {
			got := h.run(t, container{image: kernels}, kernel)
			if got.Code == 0 || !strings.Contains(got.Stderr, "io.containerd.uni.kernel="+kernel) {
				t.Errorf("%s: %+v", kernel, got)
			}
		}
	})
}

func TestImageRefuses(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		for _, tt := range []struct {
			c    container
			want string
		}{
			{carried("guest=image"), "io.containerd.uni.kernel=/PATH/IN/IMAGE"},
			{carried("kernel=/boot/pvh", "guest=linux"), "add the annotation io.containerd.uni.guest=image"},
			{carried("kernel=boot/pvh"), "absolute"},
			{carried("kernel=/missing"), "kernel /missing: there is no such file in the image"},
			{carried("kernel=/outside"), "there is no such file in the image"},
			{carried("kernel=/boot"), "no regular file"},
			{carried("kernel=/text"), "/text: it is no kernel"},
			{carried("kernel=/boot/pvh", "initrd=/missing"), "initrd /missing"},
			{carried("kernel=/boot/pvh", "disk=/backing.qcow2"), "it has a backing file"},
			{carried("kernel=/boot/pvh", "cmdline={nameserver}"), "there is no placeholder {nameserver}"},
			{container{image: kernels, flags: append(carried("kernel=/boot/pvh").flags,
				"--mount", "type=bind,src="+t.TempDir()+",dst=/mnt,options=rbind")}, "no bind mounts"},
		} {
			h.refused(t, tt.c, tt.want)
		}
		h.with(t, settings{"annotations.allowed": `["guest"]`})
		h.refused(t, carried("guest=image", "kernel=/boot/pvh"), "not allowed")
	})
}

// The configuration can name the files for all images.
func TestImageConfigured(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		h.with(t, settings{"guest": `"image"`, "image.kernel": `"/boot/pvh"`, "image.cmdline": `"netdev.ip={ip}/{prefix} -- {args}"`})
		if got := h.run(t, container{image: kernels}, "exit=3"); got.Stdout != "PVH: -- exit=3\n" || got.Code != 3 {
			t.Errorf("got %+v", got)
		}
	})
}

// declared makes and loads an image that says itself what boots: the PVH program is
// where kernel says, and files are beside it.
func declared(t *testing.T, h *host, kernel string, files map[string]string) container {
	t.Helper()
	dir, root := t.TempDir(), t.TempDir()
	copyTo(t, root, map[string]string{kernel: must[string](t)(image.BuildProgram("image/program", dir, "PVH"))})
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := container{image: "uni.local/declared-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")) + ":latest"}
	if err := image.Tree(c.image, root, v1.ImageConfig{Cmd: []string{"/server", "exit=0"}}).WriteFile(archive(c.image)); err != nil {
		t.Fatal(err)
	}
	h.load(t, c.image)
	return c
}

// uruncJSON is what urunc reads, of "name=value".
func uruncJSON(t *testing.T, pairs ...string) string {
	t.Helper()
	all := map[string]string{}
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		all["com.urunc.unikernel."+name] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return string(must[[]byte](t)(json.Marshal(all)))
}

// An image that says what boots needs no annotation.
func TestImageDeclared(t *testing.T) {
	onKernels(t, func(t *testing.T, h *host) {
		t.Run("own", func(t *testing.T) {
			c := declared(t, h, "boot/k", map[string]string{"uni.json": `{"kernel": "/boot/k", "machine": "q35", "cmdline": "name={arg0} -- {rest}"}`})
			if got := h.run(t, c, "/server", "exit=3"); got.Stdout != "PVH: name=/server -- exit=3\n" || got.Code != 3 {
				t.Errorf("got %+v", got)
			}
			named := c
			named.flags = append(named.flags, "--annotation", "io.containerd.uni.guest=linux")
			h.refused(t, named, "executable file not found")
		})
		t.Run("urunc", func(t *testing.T) {
			inside, _ := pod(t, "eth0")
			inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0; ip route add default via 10.0.0.1`)
			c := declared(t, h, "unikernel/app", map[string]string{
				"urunc.json": uruncJSON(t, "unikernelType=unikraft", "unikernelVersion=0.17.0", "hypervisor=qemu", "binary=/unikernel/app")})
			resolv := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(resolv, []byte("nameserver 10.0.0.53\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			c.flags = append(c.flags, append(join(inside), "--mount", "type=bind,src="+resolv+",dst=/etc/resolv.conf,options=rbind:ro")...)
			got := h.run(t, c, "/server", "exit=4")
			contains(t, got.Stdout, "PVH: /server env.vars=[ ", " netdev.ip=10.0.0.2/24:10.0.0.1:10.0.0.53 -- exit=4\n")
			if got.Code != 4 {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("kraft", func(t *testing.T) {
			c := declared(t, h, "unikraft/bin/kernel", nil)
			got := h.run(t, c, "/server", "exit=5")
			contains(t, got.Stdout, "PVH: /server env.vars=[ ", " -- exit=5\n")
			if got.Code != 5 {
				t.Errorf("got %+v", got)
			}
		})
		t.Run("hvt", func(t *testing.T) {
			h.refused(t, declared(t, h, "m.hvt", map[string]string{
				"urunc.json": uruncJSON(t, "unikernelType=mirage", "hypervisor=hvt", "binary=/m.hvt")}), "configure it with -t virtio")
		})
		t.Run("forbidden", func(t *testing.T) {
			h.with(t, settings{"annotations.allowed": `["guest", "memory"]`})
			h.refused(t, declared(t, h, "unikraft/bin/kernel", nil), "the image's /unikraft/bin/kernel: kernel is not allowed")
		})
	})
}
