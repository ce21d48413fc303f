package boottest

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bootTimeout bounds one boot; an emulated one takes about a second.
const bootTimeout = 60 * time.Second

// machine is a guest that booted and waits for its configuration.
type machine struct {
	t       *testing.T
	guest   *linux.Guest
	socket  string // of the control port
	session unikernel.Session
	console *lockedBuffer
	cmd     *exec.Cmd
	ended   chan struct{} // closed when QEMU has exited
}

// lockedBuffer collects output of several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// guestFile returns a file the build made.
func guestFile(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("UNI_GUEST_DIR")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "out", "guest")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the guest is not built: %v", err)
	}
	return path
}

// needQEMU skips a test unless machines shall be booted.
func needQEMU(t testing.TB) {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("UNI_QEMU_TESTS is not 1")
	}
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// image makes the root disk: busybox, users, and files that the tests look for.
func image(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "tmp", "data", "links", "work"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "cp", "/bin/busybox", filepath.Join(root, "bin/busybox"))
	for _, applet := range strings.Fields("sh tail cat echo sleep true false stat stty id tty ls grep head dd yes mount ps kill touch readlink uname hostname date sync env pwd wc test umask mkdir seq tr cut poweroff reboot printf rm mv find md5sum nohup") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]struct {
		mode os.FileMode
		text string
	}{
		"etc/passwd":    {0o644, "root:x:0:0:root:/root-home:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"},
		"etc/group":     {0o644, "root:x:0:\nuser:x:1000:\n"},
		"etc/image":     {0o644, "from the image\n"},
		"bin/notexec":   {0o644, "#!/bin/sh\n"},
		"bin/badformat": {0o755, "neither ELF nor script\n"},
		"bin/crlf":      {0o755, "#!/bin/sh\r\necho\r\n"},
		"bin/nointerp":  {0o755, "#! /bin/nosuch -x\n"},
		"data/file":     {0o644, "x"},
	}
	for name, f := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"links/abs": "/data", "links/out": "../../../../data"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "root.erofs")
	command(t, "mkfs.erofs", "-T0", "--all-root", out, root)
	return out
}

// writableDisk makes a sparse ext4 disk.
func writableDisk(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "writable.ext4")
	command(t, "truncate", "-s", "256M", path)
	command(t, "mkfs.ext4", "-q", "-F", path)
	return path
}

// boot boots a machine of the type that the plan says, with the plan's command
// line, and attaches to it.
func boot(t *testing.T, machineType, root string, app unikernel.App, extra ...string) *machine {
	t.Helper()
	return bootWith(t, machineType, unikernel.Resources{MemoryMiB: 128, VCPUs: 1}, root, app, extra...)
}

// bootWith boots with resources, and with extra arguments for QEMU.
func bootWith(t *testing.T, machineType string, res unikernel.Resources, root string, app unikernel.App, extra ...string) *machine {
	t.Helper()
	m := start(t, machineType, res, root, app, extra...)
	m.attach()
	return m
}

// start starts a machine and does not connect to it.
func start(t *testing.T, machineType string, res unikernel.Resources, root string, app unikernel.App, extra ...string) *machine {
	t.Helper()
	guest := linux.New(linux.Config{Kernel: guestFile(t, "vmlinux"), Initrd: guestFile(t, "initrd.img"),
		Machine: machineType, Emulated: true})
	plan, err := guest.Plan(app, res)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, guest: guest, socket: filepath.Join(t.TempDir(), "ctl.sock"),
		console: &lockedBuffer{}, ended: make(chan struct{})}
	m.cmd = exec.Command("qemu-system-x86_64", append(qemuArgs(t, plan, root, m.socket), extra...)...)
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		m.cmd.Wait()
		close(m.ended)
	}()
	t.Cleanup(m.cleanup)
	return m
}

// attach connects to the machine and waits for its guest.
func (m *machine) attach() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), bootTimeout)
	defer cancel()
	conn, err := m.dial(ctx)
	if err != nil {
		m.t.Fatalf("connect to the control port: %v\n%s", err, m.console)
	}
	if m.session, err = m.guest.Attach(ctx, conn); err != nil {
		m.t.Fatalf("attach: %v\n%s", err, m.console)
	}
}

func qemuArgs(t *testing.T, plan unikernel.Plan, root, socket string) []string {
	bus, blk := plan.Machine, "virtio-blk-pci"
	serial, rng := "virtio-serial-pci", "virtio-rng-pci"
	if plan.Machine == "microvm" {
		bus = "microvm,pit=off,pic=off,rtc=on,isa-serial=on"
		blk, serial, rng = "virtio-blk-device", "virtio-serial-device", "virtio-rng-device"
	}
	args := []string{"-accel", "tcg", "-M", bus, "-m", strconv.Itoa(plan.MemoryMiB), "-smp", strconv.Itoa(plan.VCPUs), "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-serial", "stdio",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", plan.Kernel, "-initrd", plan.Initrd, "-append", strings.Join(plan.Cmdline, " "),
		"-device", rng,
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + root, "-device", blk + ",drive=root,serial=" + unikernel.SerialRoot,
		"-device", serial, "-chardev", "socket,id=ctl,server=on,wait=off,path=" + socket,
		"-device", "virtserialport,chardev=ctl,name=" + plan.Control,
	}
	if plan.Machine == "microvm" { // QEMU finds it by itself, but would not always take it
		args = append(args, "-bios", "qboot.rom")
	}
	if slices.ContainsFunc(plan.Disks, func(d unikernel.DiskRequest) bool { return d.Kind == unikernel.DiskWritable }) {
		args = append(args, "-drive", "if=none,id=writable,format=raw,cache=unsafe,file="+writableDisk(t),
			"-device", blk+",drive=writable,serial="+unikernel.SerialWritable)
	}
	return args
}

// dial connects to QEMU's socket as soon as it is there.
func (m *machine) dial(ctx context.Context) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", m.socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-m.ended:
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (m *machine) cleanup() {
	if m.session != nil {
		m.session.Close()
	}
	m.cmd.Process.Kill()
	<-m.ended
	if m.t.Failed() {
		m.t.Logf("console:\n%s", m.console)
	}
}

// waitEnd waits until QEMU has exited by itself.
func (m *machine) waitEnd() {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(bootTimeout):
		m.t.Fatal("the machine did not end")
	}
}

// app is a container as containerd describes one by default, running args.
func app(args ...string) unikernel.App {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	return unikernel.App{Namespace: "default", ID: "c1", Spec: &specs.Spec{
		Version:  "1.1.0",
		Hostname: "boottest",
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"},
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: true,
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1024}}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}},
		},
	}}
}
