package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/builder"
	"containerd-shim-uni/builder/states"
	"containerd-shim-uni/config"
	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/libvirt/qemufiles"
)

// shimName is the program containerd runs for the runtime io.containerd.uni.v1.
const shimName = "containerd-shim-uni-v1"

// serverName is the program beside it that is the shim.
const serverName = "uni-shim"

func checkPlatform(_ context.Context, h host, _ config.Config) finding {
	if h.arch != "amd64" {
		return fail("use an x86-64 host", "architecture %s: only amd64 is supported", h.arch)
	}
	if h.uid != 0 {
		return warn("run as root to have every check see what containerd sees", "amd64, but not run as root")
	}
	return ok("amd64, root")
}

const openKVM = "chgrp kvm /dev/kvm; chmod 660 /dev/kvm, as udev does where it runs"

func checkAccel(_ context.Context, h host, c config.Config) finding {
	const action = "on bare metal switch virtualization on in the firmware, in a VM enable nested virtualization, and load kvm_intel or kvm_amd"
	if c.Libvirt.Accel == "tcg" {
		return warn("", "emulation, as libvirt.accel says: slow")
	}
	err := h.probeKVM()
	switch {
	case err == nil && h.closed(kvm.Device) && h.probeLists(kvm.Device) != nil:
		return warn(openKVM, "KVM runs a virtual CPU, but /dev/kvm is root's alone: QEMU runs as root, not each machine's as a user of its own")
	case err == nil && h.closed(kvm.Device) && !strings.HasPrefix(c.Libvirt.URI, "qemu:///embed"):
		return warn(openKVM, "KVM runs a virtual CPU, but /dev/kvm is root's alone: libvirtd looks at QEMU anew at every start, which takes a minute")
	case err == nil:
		return ok("KVM runs a virtual CPU")
	case c.Libvirt.Accel == "kvm":
		return fail(action+"; or set libvirt.accel to \"auto\"", "libvirt.accel is \"kvm\": %v", err)
	default:
		return warn(action, "no KVM, machines are emulated and several times slower: %v", err)
	}
}

func checkQEMU(ctx context.Context, h host, _ config.Config) finding {
	_, text, bad := program{"qemu-system-x86_64", "--version", "install qemu-system-x86", "reinstall qemu-system-x86"}.ask(ctx, h)
	if bad != nil {
		return *bad
	}
	return ok("%s", firstLine(text))
}

// program is one that is asked for its version: one that does not run, or not
// with the libraries of this host, cannot answer.
type program struct {
	name, flag string
	// missing and broken are what to do about it.
	missing, broken string
}

// ask returns the program's path and what it prints, or what is wrong with it.
func (p program) ask(ctx context.Context, h host) (path, text string, bad *finding) {
	if path = h.find(p.name); path == "" {
		f := fail(p.missing, "no %s in %s, where containerd would look", p.name, strings.Join(programDirs, ":"))
		return "", "", &f
	}
	text, err := h.output(ctx, path, p.flag)
	if err != nil {
		f := fail(p.broken, "%s %s: %v", path, p.flag, err)
		return "", "", &f
	}
	return path, text, nil
}

// checkFirmware is about qboot.rom: what of the configuration boots without it.
func checkFirmware(_ context.Context, h host, c config.Config) finding {
	path := qemufiles.Qboot(h.root)
	switch {
	case path != "":
		return ok("%s", path)
	case c.Guest == config.GuestLinux && c.Linux.Machine != "microvm":
		return warn(qemufiles.QbootAdvice, "no qboot.rom: machines of type %s take longer to boot, microvm and nanos do not boot", c.Linux.Machine)
	}
	return fail(qemufiles.QbootAdvice, "no qboot.rom: machines of type microvm and the guest nanos do not boot")
}

func checkLibvirt(_ context.Context, h host, c config.Config) finding {
	drivers := h.glob("/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so")
	drivers = append(drivers, h.glob("/usr/lib*/libvirt/connection-driver/libvirt_driver_qemu.so")...)
	if len(drivers) == 0 {
		return fail("install libvirt-daemon-driver-qemu", "libvirt's QEMU driver (libvirt_driver_qemu.so) is missing")
	}
	if f, bad := checkLibvirtLibrary(h); bad {
		return f
	}
	// Debian's libvirt looks its user for QEMU up before it reads any setting.
	if h.exists("/etc/debian_version") && !h.hasUser("libvirt-qemu") {
		return fail("run deploy/qemu-user.sh, or install libvirt-daemon-system",
			"there is no user libvirt-qemu, without which libvirt's QEMU driver does not start")
	}
	if strings.HasPrefix(c.Libvirt.URI, "qemu:///embed") {
		return ok("QEMU driver %s, embedded in the shim", drivers[0])
	}
	return checkDaemon(h, c.Libvirt.URI)
}

// checkIsolation is about what keeps a guest that has taken over its QEMU from the
// host and from other machines.
func checkIsolation(_ context.Context, h host, c config.Config) finding {
	say := warn
	if c.Libvirt.Isolation == config.IsolationStrict {
		say = fail
	}
	if err := h.probeMounts(); err != nil {
		return say("run containerd where it may make mount namespaces and devices (CAP_SYS_ADMIN, CAP_MKNOD)",
			"every QEMU can read what is open to everybody on the host: %v", err)
	}
	if !h.hasUser("libvirt-qemu") && !h.hasUser("qemu") {
		return say("install libvirt-daemon-system (Fedora: libvirt-daemon-driver-qemu), or run deploy/qemu-user.sh",
			"every QEMU runs as root: there is no user libvirt-qemu or qemu, in whose group a machine's own user is")
	}
	if err := h.probeLists(c.Storage.DataDir); err != nil {
		return warn("put storage.data_dir on a file system with access lists (ext4, xfs, btrfs; zfs: acltype=posixacl)",
			"all QEMUs have one group, in which cached roots are readable: %v", err)
	}
	return ok("each QEMU has a user and a group of its own, and the disks that its machine writes as its only files")
}

// oldestLibvirt is the oldest that the shim takes, see libvirt/load.go: its
// version 8.2, as the name of its library's file has it.
const oldestLibvirt = 8002

// checkLibvirtLibrary is about libvirt.so.0, which the shim loads: a link to
// libvirt.so.0.N.RELEASE, where N is 1000 times the major version plus the minor
// one.
func checkLibvirtLibrary(h host) (f finding, bad bool) {
	libraries := append(h.glob("/usr/lib/*/libvirt.so.0"), h.glob("/usr/lib*/libvirt.so.0")...)
	if len(libraries) == 0 {
		return fail("install libvirt0 (Fedora: libvirt-libs)", "libvirt's library (libvirt.so.0) is missing"), true
	}
	real, err := os.Readlink(h.root + libraries[0])
	if err != nil {
		return finding{}, false // not the usual link: the version is not known
	}
	_, version, _ := strings.Cut(filepath.Base(real), ".so.0.")
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < oldestLibvirt {
		return fail("use a release of the distribution with libvirt 8.2 or newer", "libvirt %d.%d is too old, see %s", n/1000, n%1000, libraries[0]), true
	}
	return finding{}, false
}

// checkDaemon is about qemu:///system: libvirt's daemon, and the one that takes
// QEMU's output for it, without which no machine starts.
func checkDaemon(h host, uri string) finding {
	sockets := []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}
	at := slices.IndexFunc(sockets, h.exists)
	if at < 0 {
		return fail("start libvirtd or virtqemud, or set libvirt.uri to \"qemu:///embed\"",
			"libvirt.uri is %q and no daemon's socket is in /run/libvirt", uri)
	}
	const logSocket = "/run/libvirt/virtlogd-sock"
	if text, err := h.read("/etc/libvirt/qemu.conf"); !h.exists(logSocket) && (err != nil || !logsToFiles.MatchString(text)) {
		return fail("start virtlogd (systemctl start virtlogd.socket; without systemd: virtlogd -d), or set stdio_handler = \"file\" in /etc/libvirt/qemu.conf",
			"libvirt.uri is %q and there is no %s: no machine starts without virtlogd", uri, logSocket)
	}
	return ok("%s by %s", uri, sockets[at])
}

// logsToFiles finds the setting with which libvirt needs no virtlogd.
var logsToFiles = regexp.MustCompile(`(?m)^\s*stdio_handler\s*=\s*"file"`)

func checkShim(ctx context.Context, h host, _ config.Config) finding {
	path, text, bad := program{shimName, "-v", "install it into one of them", "reinstall it"}.ask(ctx, h)
	if bad != nil {
		return *bad
	}
	server := filepath.Join(filepath.Dir(path), serverName)
	if !h.executable(server) {
		return fail("install both from one build", "no %s beside %s: no container starts", serverName, path)
	}
	if _, err := h.output(ctx, server, "-v"); err != nil {
		return fail("reinstall it; if a shared library is missing, install libvirt0", "%s -v: %v", server, err)
	}
	return ok("%s: %s", path, strings.Join(strings.Fields(text), " "))
}

func checkContainerd(ctx context.Context, h host, _ config.Config) finding {
	_, text, bad := program{"containerd", "--version", "install containerd", "reinstall containerd"}.ask(ctx, h)
	if bad != nil {
		return *bad
	}
	line := firstLine(text)
	files := append(h.glob("/etc/containerd/config.toml"), h.glob("/etc/containerd/conf.d/*.toml")...)
	for _, file := range files {
		if text, err := h.read(file); err == nil && strings.Contains(text, "io.containerd.uni.v1") {
			return ok("%s; the runtime is configured in %s", line, file)
		}
	}
	return ok("%s; ctr and nerdctl need no configuration", line)
}

func checkMke2fs(_ context.Context, h host, _ config.Config) finding {
	if path := h.find("mke2fs"); path != "" {
		return ok("%s", path)
	}
	return fail("install e2fsprogs", "no mke2fs in %s: no container can get a writable layer", strings.Join(programDirs, ":"))
}

func checkVirtiofsd(_ context.Context, h host, _ config.Config) finding {
	v, err := qemufiles.FindVirtiofsd(h.root)
	if err != nil {
		return warn(qemufiles.VirtiofsdAdvice, "%v: containers cannot have bind mounts", err)
	}
	return ok("%s; below bind mounts: %s", v, strings.Join(v.Limits(), "; "))
}

func checkNetwork(_ context.Context, h host, _ config.Config) finding {
	if !h.exists("/dev/net/tun") {
		return warn("load the kernel module tun", "/dev/net/tun is missing: containers have no network but their own loopback")
	}
	return ok("/dev/net/tun")
}

func checkCgroup(_ context.Context, h host, _ config.Config) finding {
	const base = "/sys/fs/cgroup"
	if controllers, err := h.read(base + "/cgroup.controllers"); err == nil {
		for _, want := range []string{"memory", "cpu"} {
			if !strings.Contains(" "+strings.TrimSpace(controllers)+" ", " "+want+" ") {
				return warn("boot with the controller enabled", "version 2 without the controller %q: its limits do not hold", want)
			}
		}
		return ok("version 2")
	}
	if !h.exists(base + "/memory") {
		return fail("mount cgroup2 at "+base, "no cgroup hierarchy is mounted at %s", base)
	}
	return ok("version 1")
}

// lowSpace is what a few images take, in bytes.
const lowSpace = 2 << 30

func checkStorage(_ context.Context, h host, c config.Config) finding {
	dir := c.Storage.DataDir
	for !h.exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(h.root+dir, &st); err != nil {
		return fail("repair it or change storage.data_dir", "%s: %v", dir, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fail("change storage.data_dir", "%s is on a read-only file system", c.Storage.DataDir)
	}
	return judgeSpace(c.Storage.DataDir, int64(st.Bavail)*st.Bsize, c.Cache.MaxSize)
}

// checkAbandoned is about containers whose host crashed.
func checkAbandoned(_ context.Context, h host, c config.Config) finding {
	if !h.exists(c.Storage.DataDir) {
		return ok("none")
	}
	store, err := builder.Open(h.root+c.Storage.DataDir, builder.Options{MaxSize: c.Cache.MaxSize})
	if err != nil {
		return warn("repair it or change storage.data_dir", "%v", err)
	}
	all, err := store.Abandoned()
	if err != nil {
		return warn("look at it", "%v", err)
	}
	return judgeAbandoned(all)
}

func judgeAbandoned(all []builder.Abandoned) finding {
	if len(all) == 0 {
		return ok("none")
	}
	var bytes int64
	for _, a := range all {
		bytes += a.Bytes
	}
	return warn("run uni cache prune, or start a container", "%d, with %s, left by a crash of the host", len(all), human(bytes))
}

// checkTemplates is about the states from which machines go on instead of booting.
func checkTemplates(_ context.Context, h host, c config.Config) finding {
	switch {
	case c.Machine.Template == config.TemplateOff:
		return ok("off, as machine.template says: every machine boots")
	case !strings.HasPrefix(c.Libvirt.URI, "qemu:///embed"):
		return ok("none with %s: every machine boots", c.Libvirt.URI)
	}
	list, err := states.New(h.root+c.Storage.DataDir, c.Storage.MinFree).List()
	if err != nil {
		return warn("look at it", "%v", err)
	}
	return judgeTemplates(list)
}

func judgeTemplates(list []states.Template) finding {
	var good, bytes int64
	bad := ""
	for _, t := range list {
		if t.Bad != "" {
			bad = t.Bad
			continue
		}
		good++
		bytes += t.Allocated
	}
	if bad != "" {
		return warn("run uni template make for the size, or wait: it is tried again after an hour", "one was no good, and machines of its shape boot: %s", bad)
	}
	if good == 0 {
		return ok("none yet: one is made after the first machine of a size has booted")
	}
	return ok("%d of %d at most, with %s", good, states.Most, human(bytes))
}

func judgeSpace(dir string, free, cache int64) finding {
	text := fmt.Sprintf("%s has %s free, the cache may take %s", dir, human(free), human(cache))
	if free < lowSpace {
		return warn("make room or change storage.data_dir", "%s", text)
	}
	return ok("%s", text)
}
