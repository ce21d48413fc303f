package libvirt

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/confine/confinetest"
	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/unikernel"
)

const systemSocket = "/run/libvirt/libvirt-sock"

// withDaemons runs the calling test in a child with libvirtd and virtlogd of
// its own: in a mount namespace in which libvirt's directories are empty, so
// that a libvirtd of this host is neither used nor killed. In the parent it
// returns true.
func withDaemons(t *testing.T) (parent bool, kill func()) {
	t.Helper()
	needQEMU(t)
	for _, name := range []string{"virtlogd", "libvirtd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	if os.Getenv("UNI_TEST_CHILD") != t.Name() {
		cmd := child(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if _, err := os.Stat(kvm.Device); err == nil {
			before := mode(t, kvm.Device)
			defer func() {
				if after := mode(t, kvm.Device); after != before {
					t.Errorf("the test leaves %s as %s, it was %s", kvm.Device, after, before)
				}
			}()
		}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatalf("child: %v", err)
		}
		return true, nil
	}
	for _, dir := range []string{"/run/libvirt", "/var/log/libvirt", "/var/lib/libvirt"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatal(err)
		}
	}
	openKVM(t, kvm.Device)
	daemon(t, "virtlogd")
	return false, daemon(t, "libvirtd")
}

// openKVM puts a device like KVM's over it, open to the group kvm as udev makes
// it: else libvirtd probes QEMU for a minute at each start. The host's own stays
// as it is: the mount is in this child's namespace alone.
func openKVM(t *testing.T, device string) {
	t.Helper()
	var st unix.Stat_t
	err := unix.Stat(device, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	group, gerr := user.LookupGroup("kvm")
	if err := errors.Join(err, gerr); err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	const ours = "/run/libvirt/kvm" // withDaemons mounted it, devices allowed
	if err := unix.Mknod(ours, unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(ours, 0, gid), os.Chmod(ours, 0o660), unix.Mount(ours, device, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
}

// daemon starts one and returns what kills it.
func daemon(t *testing.T, name string) (kill func()) {
	t.Helper()
	pidFile := "/run/libvirt/" + name + ".pid"
	_ = os.Remove(pidFile)
	if out, err := exec.Command(name, "-d", "-p", pidFile).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	var p *process
	for range 100 {
		if p = verified(readPid(pidFile), func(args []string) bool {
			return len(args) > 0 && filepath.Base(args[0]) == name
		}); p != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if p == nil {
		t.Fatalf("%s did not start", name)
	}
	kill = func() {
		_ = p.signal(unix.SIGKILL)
		_, _ = p.wait()
	}
	t.Cleanup(func() { kill(); p.close() })
	return kill
}

func openSystem(t *testing.T) *Driver {
	t.Helper()
	var d *Driver
	for range 100 { // the socket comes a moment after the pid file
		if _, err := os.Stat(systemSocket); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	d = open(t, Options{URI: SystemURI})
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func TestQEMUSystem(t *testing.T) {
	if parent, _ := withDaemons(t); parent {
		return
	}
	d := openSystem(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, "uni-test--"+kind, kind, "poweroff")
			g.disk(t, "root", "root", true)
			g.disk(t, "writable", "", false)
			pids, console := run(t, d, g)
			checkUser(t, d, pids.VM)
			bounded(t, pids.VM)
			if got := confinetest.View(t, pids.VM); got != g.machine.Disks[1].Path {
				t.Errorf("QEMU has %q", got)
			}
			ended(t, d, g.machine.Name, unikernel.EndShutdown)
			console.await(t, "disk root ro=1", "init poweroff")
		})
	}
	t.Run("disks", func(t *testing.T) { comeAndGo(t, d, "microvm") })
	t.Run("killed", func(t *testing.T) { killed(t, d) })
}

// bounded checks the limits of a daemon's QEMU, where this process may set them.
func bounded(t *testing.T, pid int) {
	t.Helper()
	var own unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, nil, &own)
	if errors.Is(err, unix.EPERM) {
		t.Log("this process lacks CAP_SYS_RESOURCE")
		return
	}
	if err != nil || own.Max != 0 {
		t.Errorf("QEMU's core dumps are bounded by %d, %v", own.Max, err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NPROC, nil, &own); err != nil || own.Max != maxThreads {
		t.Errorf("QEMU's threads are bounded by %d, %v", own.Max, err)
	}
}

// Without the daemon machines run on, and nothing else is claimed.
func TestQEMUDaemonDies(t *testing.T) {
	parent, kill := withDaemons(t)
	if parent {
		return
	}
	d := openSystem(t)
	g := newGuest(t, "uni-test--daemon", "microvm", "hang")
	pids, console := run(t, d, g)
	console.await(t, "init hang")
	name := g.machine.Name

	kill()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if end, err := d.Wait(ctx, name); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with the daemon gone Wait returns %v, %v", end, err)
	}
	if err := d.Pause(t.Context(), name); !errors.Is(err, unikernel.ErrUnavailable) || !strings.Contains(err.Error(), "start libvirtd") {
		t.Errorf("with the daemon gone Pause returns %v", err)
	}
	if len(arguments(pids.VM)) == 0 {
		t.Fatal("QEMU ended with the daemon")
	}

	kill = daemon(t, "libvirtd")
	resumed := func() error {
		for range 100 {
			if err := d.Pause(t.Context(), name); err == nil {
				return d.Resume(t.Context(), name)
			}
			time.Sleep(50 * time.Millisecond)
		}
		return d.Pause(t.Context(), name)
	}
	if err := resumed(); err != nil {
		t.Fatalf("with the daemon back: %v", err)
	}

	kill()
	destroyed(t, d, g) // kills QEMU itself
	ended(t, d, name, unikernel.EndDestroyed)
}

func TestQEMUSystemCleanUp(t *testing.T) {
	if parent, _ := withDaemons(t); parent {
		return
	}
	d := openSystem(t)
	g := newGuest(t, "uni-test--cleanup", "microvm", "hang")
	pids, _ := create(t, d, g)
	if err := CleanUp(t.Context(), Options{URI: SystemURI, Log: t.Logf}, g.machine.Name); err != nil {
		t.Fatal(err)
	}
	if len(arguments(pids.VM)) > 0 {
		t.Error("QEMU still runs")
	}
	if err := CleanUp(t.Context(), Options{URI: SystemURI, Log: t.Logf}, g.machine.Name); err != nil {
		t.Errorf("once more: %v", err)
	}
}
