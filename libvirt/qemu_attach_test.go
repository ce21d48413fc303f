package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
)

// newLUNGuest is a machine for disks that come later. It shows which it has, in
// lines "luns serial,read-only,text …".
func newLUNGuest(t *testing.T, kind string) *guest {
	t.Helper()
	g := newGuest(t, "uni-test--"+kind, kind, "luns")
	g.machine.LUNs = true
	return g
}

// lun makes a disk whose first line is its serial. A serial of the tests has six
// bytes.
func (g *guest) lun(t *testing.T, serial string, readOnly bool) unikernel.Disk {
	t.Helper()
	path := filepath.Join(g.dir, serial+".raw")
	if err := os.WriteFile(path, append([]byte("text-of-"+serial+"\n"), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return unikernel.Disk{Path: path, Format: "raw", Serial: serial, ReadOnly: readOnly}
}

// overlay makes an empty qcow2 layer over a disk.
func (g *guest) overlay(t *testing.T, serial string) unikernel.Disk {
	t.Helper()
	base := g.lun(t, serial, true)
	path := filepath.Join(g.dir, serial+".qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.Path, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return unikernel.Disk{Path: path, Format: "qcow2", Serial: serial, Ephemeral: true}
}

// plugged are a machine's disks in a test, by unit.
type plugged struct {
	t       *testing.T
	d       *Driver
	g       *guest
	pid     int
	console *transcript
}

func (p *plugged) attach(disk unikernel.Disk, unit int) {
	p.t.Helper()
	if err := p.d.Attach(p.t.Context(), p.g.machine.Name, disk, unit); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plugged) detach(disk unikernel.Disk, unit int) {
	p.t.Helper()
	if err := p.d.Detach(p.t.Context(), p.g.machine.Name, disk, unit); err != nil {
		p.t.Fatal(err)
	}
	if p.opens(disk.Path) {
		p.t.Errorf("QEMU has %s open after the disk was detached", disk.Path)
	}
}

// opens says whether QEMU has a file open.
func (p *plugged) opens(path string) bool {
	p.t.Helper()
	return slices.Contains(p.files(), path)
}

// files are all that QEMU has open.
func (p *plugged) files() []string {
	p.t.Helper()
	dir := filepath.Join("/proc", itoa(p.pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if path, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			files = append(files, path)
		}
	}
	return files
}

// sees waits until the guest has just these disks, with their texts.
func (p *plugged) sees(disks ...unikernel.Disk) {
	p.t.Helper()
	slices.SortFunc(disks, func(a, b unikernel.Disk) int { return strings.Compare(a.Serial, b.Serial) })
	want := make([]string, len(disks))
	for i, d := range disks {
		ro := 0
		if d.ReadOnly {
			ro = 1
		}
		want[i] = fmt.Sprintf(" %s,%d,text-of-%s", d.Serial, ro, d.Serial)
	}
	p.console.awaitLast(p.t, "luns"+strings.Join(want, ""))
}

// awaitLast waits until the last line that begins as this one is this one.
func (tr *transcript) awaitLast(t *testing.T, want string) {
	t.Helper()
	word, _, _ := strings.Cut(want, " ")
	timeout := time.After(bootTimeout)
	for {
		text := tr.String()
		text = text[strings.LastIndex(text, "\n"+word)+1:]
		line, _, complete := strings.Cut(text, "\r\n")
		if complete && line == want {
			return
		}
		select {
		case <-tr.more:
		case <-timeout:
			t.Fatalf("the console shows last %q, not %q:\n%s", line, want, tr)
		}
	}
}

// readableAs says whether a process with that user, and the group that machines
// share, can read a file.
func readableAs(t *testing.T, uid, gid int, path string) bool {
	t.Helper()
	cmd := exec.Command("/bin/cat", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil
}

func TestQEMUAttach(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		for _, kind := range kinds {
			t.Run(kind, func(t *testing.T) { comeAndGo(t, d, kind) })
		}
	})
}

// comeAndGo attaches and detaches disks of all kinds, while the machine runs and
// while it is paused, and lets it end with some.
func comeAndGo(t *testing.T, d *Driver, kind string) {
	g := newLUNGuest(t, kind)
	pids, console := run(t, d, g)
	p := &plugged{t, d, g, pids.VM, console}
	name := g.machine.Name
	console.await(t, "init luns")
	a, b, c, e := g.lun(t, "lun--a", true), g.lun(t, "lun--b", false), g.overlay(t, "lun--c"), g.lun(t, "lun--e", false)
	p.sees()
	before := len(p.files())

	p.attach(a, 0)
	p.attach(b, 1)
	p.attach(c, 255)
	p.sees(a, b, c)
	if uid := owner(t, pids.VM); d.apart {
		wall(t, d, uid, b.Path, c.Path)
	}
	p.detach(b, 1)
	p.sees(a, c)
	if data, err := os.ReadFile(b.Path); err != nil || !strings.Contains(string(data[4096:8192]), "guest was here") {
		t.Errorf("what the guest wrote is not in the file, %v", err)
	}
	rootOwns(t, b.Path)
	p.attach(e, 1) // b's unit
	p.sees(a, c, e)

	if err := d.Pause(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	p.attach(b, 2)
	p.detach(a, 0)
	p.detach(c, 255)
	p.detach(e, 1)
	p.attach(a, 1)
	if err := d.Resume(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	p.sees(a, b)
	p.detach(a, 1)
	p.detach(a, 1)
	p.detach(b, 2)
	p.sees()
	if after := len(p.files()); after != before {
		t.Errorf("QEMU has %d files open, %d before the disks came: %v", after, before, p.files())
	}

	p.attach(b, 0)
	if err := unix.Kill(pids.VM, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, d, name, unikernel.EndFailed)
	for what, f := range map[string]func(context.Context, string, unikernel.Disk, int) error{"attach": d.Attach, "detach": d.Detach} {
		if err := f(t.Context(), name, b, 0); !errors.Is(err, unikernel.ErrNotFound) {
			t.Errorf("%s when the machine has ended: %v, want ErrNotFound", what, err)
		}
	}
	destroyed(t, d, g)
	rootOwns(t, b.Path)
}

// wall: what the machine writes is its user's alone.
func wall(t *testing.T, d *Driver, uid int, files ...string) {
	t.Helper()
	for _, path := range files {
		if owner := fileOwner(t, path); owner != uid {
			t.Errorf("%s belongs to %d, not to the machine's user %d", path, owner, uid)
		}
		if !readableAs(t, uid, own(d.account, uid).gid, path) {
			t.Errorf("its user cannot read %s", path)
		}
		if readableAs(t, uid+1, d.account.gid, path) {
			t.Errorf("another machine's user can read %s", path)
		}
	}
}

func rootOwns(t *testing.T, path string) {
	t.Helper()
	if uid := fileOwner(t, path); uid != 0 {
		t.Errorf("%s is still user %d's", path, uid)
	}
}

// TestQEMUAttachMany: forty disks come and go, and leave nothing in QEMU or libvirt.
func TestQEMUAttachMany(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newLUNGuest(t, "microvm")
		pids, console := run(t, d, g)
		p := &plugged{t, d, g, pids.VM, console}
		console.await(t, "init luns")
		p.sees()
		before, small := len(p.files()), rss(t, pids.VM)
		var disks []unikernel.Disk
		for i := range 40 {
			disks = append(disks, g.lun(t, fmt.Sprintf("lun-%02d", i), i%2 == 0))
		}
		began := time.Now()
		for unit, disk := range disks {
			p.attach(disk, unit)
		}
		t.Logf("40 disks attached: %v, QEMU grew by %d KiB", time.Since(began).Round(time.Millisecond), rss(t, pids.VM)-small)
		p.sees(disks...)
		t.Logf("the guest has read them all: %v, QEMU grew by %d KiB", time.Since(began).Round(time.Millisecond), rss(t, pids.VM)-small)
		began = time.Now()
		for unit, disk := range disks {
			p.detach(disk, unit)
		}
		t.Logf("40 disks detached: %v", time.Since(began).Round(time.Millisecond))
		p.sees()
		if after := len(p.files()); after != before {
			t.Errorf("QEMU has %d files open, %d before the disks came: %v", after, before, p.files())
		}
		if live := document(t, d, g.machine.Name); strings.Contains(live, "lun-") {
			t.Errorf("libvirt has disks of the machine yet:\n%s", live)
		}
	})
}

// rss is what a process occupies, in KiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmRSS:")
	return number(strings.Fields(text)[0])
}

// document is libvirt's of the running machine.
func document(t *testing.T, d *Driver, name string) (text string) {
	t.Helper()
	err := d.each(t.Context(), name, "look at", func(dom *lv.Domain) (err error) {
		text, err = dom.GetXMLDesc(0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestQEMUAttachHangs: calls end although QEMU answers nothing. What they began is
// undone when it answers again, and hits no disk that came later.
func TestQEMUAttachHangs(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newLUNGuest(t, "microvm")
		pids, console := run(t, d, g)
		p := &plugged{t, d, g, pids.VM, console}
		console.await(t, "init luns")
		a, b, c := g.lun(t, "lun--a", false), g.lun(t, "lun--b", false), g.lun(t, "lun--c", false)
		p.attach(a, 0)
		p.sees(a)
		if err := unix.Kill(pids.VM, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		for what, err := range map[string]error{
			"attach": d.Attach(short, g.machine.Name, b, 1), "detach": d.Detach(short, g.machine.Name, a, 0),
		} {
			if !errors.Is(err, unikernel.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s while QEMU hangs: %v", what, err)
			}
		}
		if err := unix.Kill(pids.VM, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		p.detach(b, 1) // now it is known that it is not there
		p.attach(c, 1)
		p.sees(a, c)
		rootOwns(t, b.Path)
		p.detach(a, 0)
		p.detach(c, 1)
		p.sees()

		// With a disk on its way, QEMU ends.
		if err := unix.Kill(pids.VM, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() { failed <- d.Attach(t.Context(), g.machine.Name, b, 1) }()
		time.Sleep(100 * time.Millisecond)
		destroyed(t, d, g)
		if err := <-failed; err == nil {
			t.Error("a disk was attached to a machine that has ended")
		}
		rootOwns(t, b.Path)
	})
}
