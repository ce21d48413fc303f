package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/machinetest"
)

var kinds = []string{"microvm", "q35", "pc"}

// embedded runs a test on an embedded driver, in a process of its own.
func embedded(t *testing.T, test func(*testing.T, *Driver)) {
	t.Helper()
	if !inChild(t) {
		test(t, openEmbed(t))
	}
}

// onEachKind runs a test with a guest of every machine type that ends in the
// given way.
func onEachKind(t *testing.T, do string, test func(*testing.T, *Driver, *guest)) {
	t.Helper()
	embedded(t, func(t *testing.T, d *Driver) {
		for _, kind := range kinds {
			t.Run(kind, func(t *testing.T) { test(t, d, newGuest(t, "uni-test--"+kind, kind, do)) })
		}
	})
}

func TestQEMUBootAndPowerOff(t *testing.T) {
	onEachKind(t, "poweroff", func(t *testing.T, d *Driver, g *guest) {
		g.machine.VCPUs = 2
		g.disk(t, "root", "root", true)
		g.disk(t, "writable", "", false)
		pids, console := run(t, d, g)
		checkUser(t, d, pids.VM)
		ended(t, d, g.machine.Name, unikernel.EndShutdown)
		console.await(t, "disk root ro=1 size=2048", "disk writable ro=0", "port uni.ctl", "cpus 2", "init poweroff")
	})
}

// checkUser checks that a QEMU runs as its machine's own user, and that it is
// this user to whom KVM is open.
func checkUser(t *testing.T, d *Driver, pid int) {
	t.Helper()
	if uid := owner(t, pid); d.apart && uid < firstUID || !d.apart && uid != d.account.uid {
		t.Errorf("QEMU runs as %d", uid)
	}
	if !d.host.KVM {
		return
	}
	if !d.apart {
		t.Error("all machines run as one user: is the device of KVM closed to libvirt-qemu?")
	}
	files, err := filepath.Glob(filepath.Join("/proc", itoa(pid), "fd/*"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(f string) bool {
		to, _ := os.Readlink(f) // it may be closed by now
		return to == "anon_inode:kvm-vm"
	}) {
		t.Error("QEMU has no virtual machine of KVM's")
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
	onEachKind(t, "reboot", func(t *testing.T, d *Driver, g *guest) {
		_, console := run(t, d, g)
		ended(t, d, g.machine.Name, unikernel.EndShutdown)
		destroyed(t, d, g)
		<-console.done // what the guest wrote last may come after the news of its end
		if n := strings.Count(console.String(), "init reboot"); n != 1 {
			t.Errorf("the guest booted %d times:\n%s", n, console)
		}
	})
}

func TestQEMUPanic(t *testing.T) {
	onEachKind(t, "panic", func(t *testing.T, d *Driver, g *guest) {
		_, console := run(t, d, g)
		ended(t, d, g.machine.Name, unikernel.EndPanicked)
		console.await(t, "Kernel panic")
	})
}

func TestQEMUKilled(t *testing.T) {
	embedded(t, killed)
}

// killed boots a machine and kills its QEMU.
func killed(t *testing.T, d *Driver) {
	t.Helper()
	g := newGuest(t, "uni-test--killed", "microvm", "hang")
	pids, console := run(t, d, g)
	console.await(t, "init hang")
	if err := unix.Kill(pids.VM, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if end := ended(t, d, g.machine.Name, unikernel.EndFailed); end.Detail == "" {
		t.Error("the end has no detail")
	}
}

// TestQEMUMonitorHeld: libvirt is told that QEMU has ended when we are done with the
// process, and not before.
func TestQEMUMonitorHeld(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--held", "microvm", "hang")
		pids, _ := create(t, d, g)
		qemu, err := openProcess(pids.VM)
		if err != nil {
			t.Fatal(err)
		}
		defer qemu.close()
		held := heldMonitor(qemu)
		if held == nil {
			t.Fatal("no monitor was found")
		}
		defer held.Close()
		if err := qemu.signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for unix.Kill(pids.VM, 0) == nil { // the driver reaps it
			time.Sleep(time.Millisecond)
		}
		state, err := call(t.Context(), d, func(c *lv.Connect) (stateOf, error) { return ask(c, g.machine.Name) })
		if err != nil || state.absent || state.state != lv.DOMAIN_PAUSED {
			t.Errorf("libvirt was told already: %+v, %v", state, err)
		}
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
		ended(t, d, g.machine.Name, unikernel.EndFailed)
		if other := heldMonitor(qemu); other != nil {
			t.Error("a process that is gone has a monitor")
		}
	})
}

func TestQEMUShare(t *testing.T) {
	onEachKind(t, "poweroff", func(t *testing.T, d *Driver, g *guest) {
		share := filepath.Join(g.dir, "share")
		if err := os.Mkdir(share, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(share, "from-host"), []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		g.machine.Share = &unikernel.Share{Source: share, Tag: "share"}
		pids, console := run(t, d, g)
		if len(pids.Helpers) != 2 {
			t.Errorf("helpers %v, want virtiofsd and the child in which it works", pids.Helpers)
		}
		console.await(t, "share hello")
		ended(t, d, g.machine.Name, unikernel.EndShutdown)
		if got, _ := os.ReadFile(filepath.Join(share, "from-guest")); string(got) != "guest\n" {
			t.Errorf("the guest wrote %q", got)
		}
	})
}

// A guest whose directories are gone would wait for them without end.
func TestQEMUShareIsKilled(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--alone", "microvm", "hang")
		share := filepath.Join(g.dir, "share")
		if err := os.Mkdir(share, 0o700); err != nil {
			t.Fatal(err)
		}
		g.machine.Share = &unikernel.Share{Source: share, Tag: "share"}
		pids, console := run(t, d, g)
		console.await(t, "init hang")
		if err := unix.Kill(pids.Helpers[0], unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if end := ended(t, d, g.machine.Name, unikernel.EndFailed); !strings.Contains(end.Detail, "virtiofsd") {
			t.Errorf("%+v", end)
		}
		if err := d.Destroy(t.Context(), g.machine.Name); err != nil {
			t.Error(err)
		}
	})
}

func TestQEMUPauseAndPowerButton(t *testing.T) {
	onEachKind(t, "count", func(t *testing.T, d *Driver, g *guest) {
		_, console := run(t, d, g)
		console.await(t, "count 3\r")
		if err := d.Pause(t.Context(), g.machine.Name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // what is under way arrives
		before := len(console.String())
		time.Sleep(500 * time.Millisecond)
		if after := len(console.String()); after != before {
			t.Errorf("a paused machine wrote %d bytes", after-before)
		}
		if err := d.Resume(t.Context(), g.machine.Name); err != nil {
			t.Fatal(err)
		}
		n := strings.Count(console.String(), "count")
		console.await(t, "count "+itoa(n+5)+"\r")
		if err := d.PowerButton(t.Context(), g.machine.Name); err != nil {
			t.Errorf("power button: %v", err)
		}
	})
}

func TestQEMUAbsent(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		for what, f := range map[string]func(context.Context, string) error{
			"pause": d.Pause, "resume": d.Resume, "power button": d.PowerButton} {
			if err := f(t.Context(), "uni-test--absent"); !errors.Is(err, unikernel.ErrNotFound) {
				t.Errorf("%s of no machine: %v, want ErrNotFound", what, err)
			}
		}
		if _, err := d.Wait(t.Context(), "uni-test--absent"); !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("wait for no machine: %v, want ErrNotFound", err)
		}
		if err := d.Destroy(t.Context(), "uni-test--absent"); err != nil {
			t.Errorf("destroy of no machine: %v", err)
		}
	})
}

// Many machines share the root's disk: one's end must not touch the others'
// access to it, and a new one must start.
func TestQEMUSharedDisk(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		first := newGuest(t, "uni-test--first", "microvm", "hang")
		first.disk(t, "root", "shared", true)
		path := first.machine.Disks[0].Path
		before := mode(t, path)
		guests := []*guest{first}
		for _, name := range []string{"uni-test--second", "uni-test--third"} {
			g := newGuest(t, name, "microvm", "hang")
			link := filepath.Join(g.dir, "root.raw") // as for a container: a hard link
			if err := os.Link(path, link); err != nil {
				t.Fatal(err)
			}
			g.machine.Disks = []unikernel.Disk{{Path: link, Format: "raw", Serial: "root", ReadOnly: true}}
			guests = append(guests, g)
		}
		_, c1 := run(t, d, guests[0])
		_, c2 := run(t, d, guests[1])
		c1.await(t, "disk root ro=1", "init hang")
		c2.await(t, "disk root ro=1", "init hang")
		granted := mode(t, path)
		destroyed(t, d, guests[0])
		if now := mode(t, path); now != granted {
			t.Errorf("the shared disk changed from %s to %s with the end of a machine", granted, now)
		}
		_, c3 := run(t, d, guests[2])
		c3.await(t, "disk root ro=1", "init hang")
		if byGroup := d.account.uid != 0 && !d.account.lists; byGroup == (before == granted) {
			t.Errorf("while machines run the disk of mode %s has %s", before, granted)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if end, err := d.Wait(ctx, guests[1].machine.Name); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second machine: %v, %v", end, err)
		}
	})
}

// mode returns owner, group and mode.
func mode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
}

func TestQEMUSeveralAtOnce(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		t.Run("all", func(t *testing.T) {
			for i := range 4 {
				t.Run(itoa(i), func(t *testing.T) {
					t.Parallel()
					g := newGuest(t, "uni-test--"+itoa(i), "microvm", "poweroff")
					_, console := run(t, d, g)
					ended(t, d, g.machine.Name, unikernel.EndShutdown)
					console.await(t, "init poweroff")
				})
			}
		})
	})
}

func TestQEMUAgainAtOnce(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		for range 3 { // the same name, with no pause
			g := newGuest(t, "uni-test--again", "microvm", "hang")
			create(t, d, g)
			if _, err := d.Create(t.Context(), g.machine); !errors.Is(err, fs.ErrExist) {
				t.Errorf("a second machine of the name: %v, want ErrExist", err)
			}
			if err := d.Destroy(t.Context(), g.machine.Name); err != nil {
				t.Fatal(err)
			}
			ended(t, d, g.machine.Name, unikernel.EndDestroyed)
		}
	})
}

func TestQEMUCreateFails(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		tests := []struct {
			name  string
			edit  func(*testing.T, *guest)
			class error
			text  string
		}{
			{"no kernel", func(_ *testing.T, g *guest) { g.machine.Kernel = filepath.Join(g.dir, "nothing") }, unikernel.ErrNotFound, "nothing"},
			{"no disk", func(_ *testing.T, g *guest) { g.machine.Disks[0].Path = filepath.Join(g.dir, "nothing") }, unikernel.ErrNotFound, "nothing"},
			{"not a kernel", func(_ *testing.T, g *guest) { g.machine.Kernel = g.machine.Initrd }, nil, "kernel"},
			{"no tap", func(_ *testing.T, g *guest) {
				g.machine.NICs = []unikernel.NIC{{Tap: "uni-absent", MAC: "52:54:00:00:00:01"}}
			}, unikernel.ErrNotFound, "uni-absent"},
			{"closed directory", func(t *testing.T, g *guest) {
				dir := filepath.Join(g.dir, "closed")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, "root.raw")
				if err := os.Rename(g.machine.Disks[0].Path, path); err != nil {
					t.Fatal(err)
				}
				g.machine.Disks[0].Path = path
			}, unikernel.ErrInvalid, "closed"},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if tt.name == "closed directory" && d.account.uid == 0 {
					t.Skip("QEMU runs as root")
				}
				g := newGuest(t, "uni-test--fails", "microvm", "hang")
				g.disk(t, "root", "root", true)
				tt.edit(t, g)
				_, err := d.Create(t.Context(), g.machine)
				if err == nil || !strings.Contains(err.Error(), tt.text) || tt.class != nil && !errors.Is(err, tt.class) {
					t.Errorf("got %v, want %v with %q", err, tt.class, tt.text)
				}
				t.Log(err)
				destroyed(t, d, g)
			})
		}
	})
}

func TestQEMUInterfaces(t *testing.T) {
	onEachKind(t, "poweroff", func(t *testing.T, d *Driver, g *guest) {
		g.machine.VCPUs = 2
		for i, mode := range []string{"", "multi_queue"} {
			name := "unitest" + itoa(os.Getpid()%1000) + itoa(i)
			args := append([]string{"tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr"}, strings.Fields(mode)...)
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("ip %v: %v: %s", args, err, out)
			}
			t.Cleanup(func() {
				if out, err := exec.Command("ip", "link", "del", name).CombinedOutput(); err != nil {
					t.Errorf("the tap is gone with the machine: %v: %s", err, out)
				}
			})
			g.machine.NICs = append(g.machine.NICs, unikernel.NIC{Tap: name, MAC: "52:54:00:00:00:1" + itoa(i), MTU: 1400 + i, Queues: 1 + i})
		}
		_, console := run(t, d, g)
		console.await(t, "nic 52:54:00:00:00:10 mtu=1400", "nic 52:54:00:00:00:11 mtu=1401")
		ended(t, d, g.machine.Name, unikernel.EndShutdown)
	})
}

// TestQEMUMachines: the driver keeps the promises that the shim relies on; its
// fake passes the same tests.
func TestQEMUMachines(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--machines", "microvm", "hang")
		g.machine.LUNs = true
		machinetest.Run(t, d, g.machine)
	})
}
