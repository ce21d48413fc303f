package libvirt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
)

var kinds = []string{"microvm", "q35", "pc"}

func TestQEMUBootAndPowerOff(t *testing.T) {
	if inChild(t) {
		return
	}
	d := openEmbed(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, "uni-test--"+kind, kind, "poweroff")
			g.machine.VCPUs = 2
			g.disk(t, "root", "root", true)
			g.disk(t, "writable", "", false)
			pids, console := run(t, d, g)
			if uid := owner(t, pids.VM); uid != d.account.uid {
				t.Errorf("QEMU runs as %d, want %d", uid, d.account.uid)
			}
			ended(t, d, g.machine.Name, unikernel.EndShutdown)
			console.await(t, "disk root ro=1 size=2048", "disk writable ro=0", "port uni.ctl", "cpus 2", "init poweroff")
		})
	}
}

// owner returns the user a process runs as.
func owner(t *testing.T, pid int) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", itoa(pid)), &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

func TestQEMUReboot(t *testing.T) {
	if inChild(t) {
		return
	}
	d := openEmbed(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, "uni-test--"+kind, kind, "reboot")
			_, console := run(t, d, g)
			ended(t, d, g.machine.Name, unikernel.EndShutdown)
			if n := strings.Count(console.String(), "init reboot"); n != 1 {
				t.Errorf("the guest booted %d times", n)
			}
		})
	}
}

func TestQEMUPanic(t *testing.T) {
	if inChild(t) {
		return
	}
	d := openEmbed(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, "uni-test--"+kind, kind, "panic")
			_, console := run(t, d, g)
			ended(t, d, g.machine.Name, unikernel.EndPanicked)
			console.await(t, "Kernel panic")
		})
	}
}

func TestQEMUKilled(t *testing.T) {
	if inChild(t) {
		return
	}
	d := openEmbed(t)
	g := newGuest(t, "uni-test--killed", "microvm", "hang")
	pids, console := run(t, d, g)
	console.await(t, "init hang")
	if err := unix.Kill(pids.VM, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	end := ended(t, d, g.machine.Name, unikernel.EndFailed)
	if end.Detail == "" {
		t.Error("the end has no detail")
	}
}

func TestQEMUShare(t *testing.T) {
	if inChild(t) {
		return
	}
	d := openEmbed(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t, "uni-test--"+kind, kind, "poweroff")
			share := filepath.Join(g.dir, "share")
			if err := os.Mkdir(share, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(share, "from-host"), []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
			g.machine.Share = &unikernel.Share{Source: share, Tag: "share"}
			pids, console := run(t, d, g)
			if len(pids.Helpers) != 1 {
				t.Errorf("helpers %v, want virtiofsd", pids.Helpers)
			}
			console.await(t, "share hello")
			ended(t, d, g.machine.Name, unikernel.EndShutdown)
			if got, _ := os.ReadFile(filepath.Join(share, "from-guest")); string(got) != "guest\n" {
				t.Errorf("the guest wrote %q", got)
			}
		})
	}
}
