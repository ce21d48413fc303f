package libvirt

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// Tests whose name begins with TestQEMU boot real machines. They need root,
// libvirt, QEMU, a static busybox and the guest's kernel, and run only when
// UNI_QEMU_TESTS=1. The kernel is UNI_KERNEL, else ../out/guest/vmlinux. With
// UNI_TEST_ACCEL=kvm nothing is emulated.

// process1 is the test guest's init. The kernel argument do= says how it ends.
const process1 = `#!/bin/busybox sh
busybox() { /bin/busybox "$@"; }
busybox mkdir -p /proc /sys /dev /mnt
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for b in /sys/block/vd*; do
	[ -e $b ] && echo "disk $(busybox cat $b/serial) ro=$(busybox cat $b/ro) size=$(busybox cat $b/size)"
done
for p in /sys/class/virtio-ports/*; do [ -e $p/name ] && echo "port $(busybox cat $p/name)"; done
for n in /sys/class/net/e*; do [ -e $n ] && echo "nic $(busybox cat $n/address) mtu=$(busybox cat $n/mtu)"; done
echo "cpus $(busybox grep -c ^processor /proc/cpuinfo)"
for a in $(busybox cat /proc/cmdline); do
	case $a in do=*) do=${a#do=};; esac
done
if busybox mount -t virtiofs share /mnt 2>/dev/null; then
	echo "share $(busybox cat /mnt/from-host)"
	echo guest > /mnt/from-guest
fi
echo "init $do"
case $do in
poweroff) busybox poweroff -f;;
reboot) busybox reboot -f;;
panic) exit 3;;
later) busybox sleep 1; busybox poweroff -f;;
hang) while :; do busybox sleep 1000; done;;
count) n=0; while :; do n=$((n+1)); echo "count $n"; busybox usleep 50000; done;;
luns)	# which disks there are, with their first lines; one that can be written is
	last=none
	while :; do
		now=$(for b in /sys/block/sd*; do
			[ -e $b/device/vpd_pg80 ] || continue
			read -r serial <$b/device/vpd_pg80; read -r ro <$b/ro; text=; read -r text </dev/${b##*/}
			echo "${serial#??} $ro $text ${b##*/}"
		done | busybox sort)
		[ "$now" = "$last" ] && busybox usleep 20000 && continue
		last=$now
		line=
		while read -r serial ro text name; do
			[ "$serial" ] || continue
			[ "$ro" = 0 ] && echo "guest was here" | busybox dd of=/dev/$name bs=4096 seek=1 conv=notrunc,fsync 2>/dev/null
			line="$line $serial,$ro,$text"
		done <<EOF
$now
EOF
		echo "luns$line"
	done;;
write) busybox dd if=/dev/urandom of=/dev/vdb bs=4096 count=16 2>/dev/null; busybox sync; echo "wrote"; busybox poweroff -f;;
esac
`

// initrd returns an initramfs of busybox and process1.
var initrd = sync.OnceValues(func() ([]byte, error) {
	shell, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	z, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	entry := func(name string, mode, size int) {
		fmt.Fprintf(z, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
		z.Write(append([]byte(name), make([]byte, 1+(4-(110+len(name)+1)%4)%4)...))
	}
	file := func(name string, data []byte) {
		entry(name, 0o100755, len(data))
		z.Write(append(data[:len(data):len(data)], make([]byte, (4-len(data)%4)%4)...))
	}
	entry("bin", 0o40755, 0)
	file("bin/busybox", shell)
	file("init", []byte(process1))
	entry("dev", 0o40755, 0)
	entry("TRAILER!!!", 0, 0)
	err = z.Close()
	return buf.Bytes(), err
})

// guest is a directory with everything a test machine needs.
type guest struct {
	dir     string
	machine unikernel.Machine
}

// newGuest describes a machine of the given type that ends in the given way.
func newGuest(t *testing.T, name, kind, do string) *guest {
	t.Helper()
	above := os.Getenv("UNI_TEST_DIR") // of a process that is killed, its parent's
	if above == "" {
		above = "/run"
	}
	dir, err := os.MkdirTemp(above, "uni-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	kernel := os.Getenv("UNI_KERNEL")
	if kernel == "" {
		kernel = "../out/guest/vmlinux"
	}
	if kernel, err = filepath.Abs(kernel); err != nil {
		t.Fatal(err)
	}
	image, err := initrd()
	if err != nil {
		t.Fatal(err)
	}
	ramdisk := filepath.Join(dir, "initrd.img")
	if err := os.WriteFile(ramdisk, image, 0o644); err != nil {
		t.Fatal(err)
	}
	return &guest{dir: dir, machine: unikernel.Machine{
		Name: name, Title: "test/" + name, Type: kind,
		Resources: unikernel.Resources{MemoryMiB: 96, VCPUs: 1},
		Kernel:    kernel, Initrd: ramdisk,
		Cmdline:  []string{"console=ttyS0", "quiet", "panic=-1", "no_timer_check", "tsc_early_khz=" + hostKHz(), "uni.lapic_hz=1000000000", "do=" + do},
		Console:  filepath.Join(dir, "console.sock"),
		Channels: []unikernel.Channel{{Name: "uni.ctl", Socket: filepath.Join(dir, "ctl.sock")}},
	}}
}

// hostKHz is what an emulated time stamp counter counts with.
func hostKHz() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			return strings.ReplaceAll(strings.TrimSpace(value), ".", "")
		}
	}
	return "2000000"
}

// disk makes a disk of 1 MiB with some bytes at its start.
func (g *guest) disk(t *testing.T, serial, text string, readOnly bool) {
	t.Helper()
	path := filepath.Join(g.dir, serial+".raw")
	if err := os.WriteFile(path, append([]byte(text), make([]byte, 1<<20-len(text))...), 0o600); err != nil {
		t.Fatal(err)
	}
	g.machine.Disks = append(g.machine.Disks, unikernel.Disk{
		Path: path, Format: "raw", Serial: serial, ReadOnly: readOnly, Ephemeral: !readOnly})
}

// transcript reads a machine's console.
type transcript struct {
	mu   sync.Mutex
	text []byte
	more chan struct{}
	done chan struct{} // closed when QEMU is gone, or the test is over
}

func readConsole(t *testing.T, socket string) *transcript {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	tr := &transcript{more: make(chan struct{}, 1), done: make(chan struct{})}
	t.Cleanup(func() { conn.Close(); <-tr.done })
	go func() {
		defer close(tr.done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			tr.mu.Lock()
			tr.text = append(tr.text, buf[:n]...)
			tr.mu.Unlock()
			select {
			case tr.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return tr
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return string(tr.text)
}

// await waits until the console shows all of the texts.
func (tr *transcript) await(t *testing.T, texts ...string) {
	t.Helper()
	timeout := time.After(bootTimeout)
	for {
		missing := ""
		for _, s := range texts {
			if !strings.Contains(tr.String(), s) {
				missing = s
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-tr.more:
		case <-timeout:
			t.Fatalf("the console does not show %q:\n%s", missing, tr)
		}
	}
}

// bootTimeout is for an emulated processor on a busy host.
const bootTimeout = 60 * time.Second

func needQEMU(t *testing.T) {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("boots machines; set UNI_QEMU_TESTS=1")
	}
}

// inChild runs the calling test again in a process of its own, because a
// process can have one embedded driver. In the parent it returns true after
// the child ended.
func inChild(t *testing.T, env ...string) bool {
	t.Helper()
	needQEMU(t)
	if os.Getenv("UNI_TEST_CHILD") == t.Name() {
		return false
	}
	out, err := child(t, env...).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("child: %v", err)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skip("the child skipped")
	}
	return true
}

// child is a process that runs the calling test again.
func child(t *testing.T, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1", "-test.timeout=5m")
	cmd.Env = append(append(os.Environ(), "UNI_TEST_CHILD="+t.Name()), env...)
	return cmd
}

// openEmbed opens an embedded driver in a fresh root.
func openEmbed(t *testing.T) *Driver {
	t.Helper()
	root, parent := rootBelowRun(t)
	d := open(t, Options{EmbedRoot: root})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		time.Sleep(300 * time.Millisecond) // libvirt's own threads must not bring anything back
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("Close leaves %v", left)
		}
	})
	return d
}

func open(t *testing.T, opts Options) *Driver {
	t.Helper()
	if opts.Accel == "" {
		opts.Accel = os.Getenv("UNI_TEST_ACCEL")
	}
	opts.CapsCache = "/var/tmp/uni-test-caps"
	opts.Log = t.Logf
	start := time.Now()
	d, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open: %v", time.Since(start).Round(time.Millisecond))
	return d
}

// create creates and connects to the console before the CPUs run.
func create(t *testing.T, d *Driver, g *guest) (unikernel.Pids, *transcript) {
	t.Helper()
	start := time.Now()
	pids, err := d.Create(t.Context(), g.machine)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("create %s: %v", g.machine.Name, time.Since(start).Round(time.Millisecond))
	t.Cleanup(func() { destroyed(t, d, g) })
	return pids, readConsole(t, g.machine.Console)
}

// run creates and resumes.
func run(t *testing.T, d *Driver, g *guest) (unikernel.Pids, *transcript) {
	t.Helper()
	pids, console := create(t, d, g)
	if err := d.Resume(t.Context(), g.machine.Name); err != nil {
		t.Fatal(err)
	}
	return pids, console
}

// ended waits for the machine's end and checks the reason.
func ended(t *testing.T, d *Driver, name string, want unikernel.EndReason) unikernel.End {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	end, err := d.Wait(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s ended: %v (%s)", name, end.Reason, end.Detail)
	if end.Reason != want {
		t.Errorf("machine %s ended: %v (%s), want %v", name, end.Reason, end.Detail, want)
	}
	return end
}

// destroyed destroys the machine and checks that nothing of it is left.
func destroyed(t *testing.T, d *Driver, g *guest) {
	t.Helper()
	start := time.Now()
	if err := d.Destroy(context.Background(), g.machine.Name); err != nil {
		t.Errorf("destroy: %v", err)
	}
	t.Logf("destroy %s: %v", g.machine.Name, time.Since(start).Round(time.Millisecond))
	if p := findQEMU(d.target, g.machine.Name); p != nil {
		t.Errorf("QEMU %d of %s still runs", p.pid, g.machine.Name)
		p.close()
	}
	for _, socket := range []string{g.machine.Console, g.machine.Channels[0].Socket} {
		if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", socket, err)
		}
	}
	d.mu.Lock()
	dom := d.domains[g.machine.Name]
	leaving := dom != nil && dom.is(clearing, cleared)
	d.mu.Unlock()
	if leaving {
		<-dom.cleared
	}
	left, _ := filepath.Glob(filepath.Join(d.target.logs, "*"+g.machine.Name+"*"))
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
