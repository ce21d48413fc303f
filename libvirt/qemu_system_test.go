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
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/unikernel"
)

const systemSocket = "/run/libvirt/libvirt-sock"

// startDaemons starts virtlogd and libvirtd, or skips where others run: a test
// that kills a daemon must not kill the machine's own.
func startDaemons(t *testing.T) (stop func()) {
	t.Helper()
	needQEMU(t)
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if pid := readPid("/run/libvirtd.pid"); pid > 0 && len(arguments(pid)) > 0 {
		t.Skip("a libvirtd runs already")
	}
	for _, name := range []string{"virtlogd", "libvirtd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	// What the package libvirt-daemon-system, or systemd with it, makes.
	for _, dir := range []string{"/run/libvirt", "/var/log/libvirt", "/var/lib/libvirt", "/var/cache/libvirt"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	openKVM(t)
	if readPid("/run/virtlogd.pid") == 0 || len(arguments(readPid("/run/virtlogd.pid"))) == 0 {
		daemon(t, "virtlogd", "/run/virtlogd.pid")
	}
	return daemon(t, "libvirtd", "/run/libvirtd.pid")
}

// openKVM gives the group kvm the device as udev does: else libvirtd probes
// QEMU for a minute at each start.
func openKVM(t *testing.T) {
	t.Helper()
	info, err := os.Stat(kvm.Device)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	kvmGroup, gerr := user.LookupGroup("kvm")
	if err := errors.Join(err, gerr); err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(kvmGroup.Gid)
	if err := errors.Join(err, os.Chown(kvm.Device, -1, gid), os.Chmod(kvm.Device, info.Mode().Perm()|0o060)); err != nil {
		t.Fatal(err)
	}
}

// daemon starts one and returns what kills it.
func daemon(t *testing.T, name, pidFile string) (kill func()) {
	t.Helper()
	if out, err := exec.Command(name, "-d").CombinedOutput(); err != nil {
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
	startDaemons(t)
	d := openSystem(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, "uni-test--"+kind, kind, "poweroff")
			g.disk(t, "root", "root", true)
			pids, console := run(t, d, g)
			if uid := owner(t, pids.VM); uid != d.account.uid {
				t.Errorf("QEMU runs as %d, want %d", uid, d.account.uid)
			}
			ended(t, d, g.machine.Name, unikernel.EndShutdown)
			console.await(t, "disk root ro=1", "init poweroff")
		})
	}
	t.Run("killed", func(t *testing.T) {
		g := newGuest(t, "uni-test--killed", "microvm", "hang")
		pids, console := run(t, d, g)
		console.await(t, "init hang")
		if err := unix.Kill(pids.VM, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ended(t, d, g.machine.Name, unikernel.EndFailed)
	})
}

// Without the daemon machines run on, and nothing else is claimed.
func TestQEMUDaemonDies(t *testing.T) {
	kill := startDaemons(t)
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

	_ = os.Remove("/run/libvirtd.pid")
	kill = daemon(t, "libvirtd", "/run/libvirtd.pid")
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
	startDaemons(t)
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
