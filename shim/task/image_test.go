package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fakeLoader is a guest whose kernel is the image's.
type fakeLoader struct {
	fakeGuest
	files       unikernel.ImageFiles
	completeErr error
	patch       *unikernel.Patch
	path        string // that complete was told
}

func (g *fakeLoader) Plan(app unikernel.App, r unikernel.Resources) (unikernel.Plan, error) {
	plan := unikernel.Plan{
		Boot: unikernel.Boot{Resources: r}, Image: &unikernel.ImageBoot{ImageFiles: g.files, Complete: g.complete},
	}
	if g.files.Disk != "" {
		plan.Disks = []unikernel.DiskRequest{{
			Kind: unikernel.DiskImage, Serial: unikernel.SerialRoot, ReadOnly: app.Spec.Root != nil && app.Spec.Root.Readonly,
		}}
	}
	return plan, nil
}

func (g *fakeLoader) complete(kernel io.ReaderAt, size int64, path string) (unikernel.ImageKernel, error) {
	text := make([]byte, size)
	if _, err := kernel.ReadAt(text, 0); err != nil {
		return unikernel.ImageKernel{}, err
	}
	g.path = path
	return unikernel.ImageKernel{Guest: g, Machine: "type of " + string(text), Patch: g.patch}, g.completeErr
}

func (g *fakeLoader) Prepare(app unikernel.App) (unikernel.Prepared, error) {
	return unikernel.Prepared{Cmdline: []string{fmt.Sprintf("interfaces=%d", len(app.Network.Interfaces))}}, nil
}

func (g *fakeLoader) Connect(_ context.Context, m unikernel.Booted) (unikernel.Session, error) {
	g.session.conn = m.Console()
	go func() { _, _ = io.Copy(io.Discard, m.Console()) }()
	return g.session, nil
}

func newLoaderBench(t *testing.T) (*bench, *fakeLoader) {
	b := newBench(t)
	b.configure(`guest = "image"`)
	g := &fakeLoader{fakeGuest: fakeGuest{session: b.session}, files: unikernel.ImageFiles{Kernel: "/boot/k", Initrd: "/boot/i", Disk: "/disk"}}
	b.host.watcher = g
	return b, g
}

func TestImageKernel(t *testing.T) {
	for name, readOnly := range map[string]bool{"written": false, "read-only": true} {
		b, g := newLoaderBench(t)
		b.spec.Root = &specs.Root{Path: "rootfs", Readonly: readOnly}
		b.host.disks.missing = b.spec.Process.Args[0] // no program, but words for the kernel
		c := b.must(true)
		if b.host.disks.taken != g.files {
			t.Errorf("%s: taken from the image: %+v", name, b.host.disks.taken)
		}
		m := b.host.machines.Made[0]
		if m.Type != "type of /boot/k" || m.Kernel != c.names.kernel() || m.Initrd != c.names.initrd() || !m.OwnKernel ||
			!slices.Equal(m.Cmdline, []string{"interfaces=0"}) || len(m.Channels) > 0 || len(m.Disks) != 1 {
			t.Errorf("%s: machine %+v", name, m)
		}
		want := unikernel.Disk{Path: c.names.imageLayer(), Format: "qcow2", Serial: unikernel.SerialRoot, Ephemeral: true}
		if readOnly {
			want = unikernel.Disk{Path: c.names.imageDisk(), Format: "raw", Serial: unikernel.SerialRoot, ReadOnly: true}
		}
		if m.Disks[0] != want {
			t.Errorf("%s: disk %+v", name, m.Disks[0])
		}
		if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
			t.Fatal(err)
		}
		if got := b.wait(); got != 137 {
			t.Errorf("%s: exit %d", name, got)
		}
		b.remove()
		b.wantNothing()
	}
}

// TestImageKernelLateNetwork: the command line is written again when the network
// appears.
func TestImageKernelLateNetwork(t *testing.T) {
	b, g := newLoaderBench(t)
	g.files = unikernel.ImageFiles{Kernel: "/boot/k"}
	c := b.must(false)
	b.host.networks.found = podNetwork
	if _, err := b.Start(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	made := b.host.machines.Made
	if len(made) != 2 || len(made[1].Disks) > 0 || made[1].Initrd != "" || !slices.Equal(made[1].Cmdline, []string{"interfaces=1"}) {
		t.Errorf("machines %+v", made)
	}
	b.end(c)
	b.remove()
	b.wantNothing()
}

func TestImageKernelFails(t *testing.T) {
	for name, fail := range map[string]func(*bench, *fakeLoader){
		"files":  func(b *bench, _ *fakeLoader) { b.host.disks.imageErr = os.ErrPermission },
		"kernel": func(_ *bench, g *fakeLoader) { g.completeErr = os.ErrPermission },
	} {
		b, g := newLoaderBench(t)
		fail(b, g)
		if _, err := b.create(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("%s: %v", name, err)
		}
		b.wantNothing()
	}
}

// TestImageDeclared: what an image says of what boots decides before the guest is
// chosen; where that cannot be, nothing is left.
func TestImageDeclared(t *testing.T) {
	b, _ := newLoaderBench(t)
	b.configure("")
	b.host.declared = func(cfg config.Config, fs unikernel.Rootfs) (config.Config, error) {
		if _, _, err := fs.Find("/uni.json"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a file that is not there: %v", err)
		}
		return cfg.Declared("/uni.json", config.Image{Kernel: "/boot/k"})
	}
	c := b.must(false)
	if b.host.asked != config.GuestImage {
		t.Errorf("the guest is %q", b.host.asked)
	}
	b.end(c)
	b.remove()
	b.wantNothing()

	b.host.declared = func(config.Config, unikernel.Rootfs) (config.Config, error) { return config.Config{}, os.ErrPermission }
	if _, err := b.create(); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	b.wantNothing()
}

// TestImageDiskAlone: a disk without a kernel is what is looked at, and boots.
func TestImageDiskAlone(t *testing.T) {
	b, g := newLoaderBench(t)
	g.files = unikernel.ImageFiles{Disk: "/disk"}
	c := b.must(false)
	if m := b.host.machines.Made[0]; m.Type != "type of /disk" || m.Kernel != "" || len(m.Disks) != 1 {
		t.Errorf("machine %+v", m)
	}
	b.end(c)
	b.remove()
	b.wantNothing()
}

// TestImageKernelPatched: the machine boots a changed copy; the file, which others may
// have too, is as it was.
func TestImageKernelPatched(t *testing.T) {
	b, g := newLoaderBench(t)
	g.files = unikernel.ImageFiles{Kernel: "/boot/k"}
	g.patch = &unikernel.Patch{Keep: 5, Size: 9, Edits: []unikernel.Edit{{At: 0, Data: []byte("#")}, {At: 8, Data: []byte("!")}}}
	c := b.must(false)
	if m := b.host.machines.Made[0]; m.Kernel != g.path || !m.OwnKernel {
		t.Errorf("machine %+v, told %s", m, g.path)
	}
	for name, want := range map[string]string{g.path: "#boot\x00\x00\x00!", c.names.kernel(): "/boot/k"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	b.end(c)
	b.remove()
	b.wantNothing()

	g.patch.Keep = 100 // more than there is
	if _, err := b.create(); err == nil {
		t.Error("a copy that is not whole")
	}
	b.wantNothing()
}
