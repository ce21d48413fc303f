package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/config"
	"containerd-shim-uni/unikernel"
)

// bring puts a finished disk into the container's root.
func (b *bench) bring(guest, format string) {
	b.t.Helper()
	root := filepath.Join(b.bundle, "rootfs")
	info := fmt.Sprintf(`{"version":1,"guest":%q,"filesystem":"x","format":%q,"size":4}`, guest, format)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, filepath.Dir(unikernel.DiskFile)), 0o755),
		os.WriteFile(filepath.Join(root, unikernel.DiskFile), []byte("disk"), 0o444),
		os.WriteFile(filepath.Join(root, unikernel.DiskInfoFile), []byte(info), 0o444),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestFinishedDisk(t *testing.T) {
	b := newBench(t)
	b.bring("linux", "qcow2")
	b.must(true)
	if d := b.host.machines.Made[0].Disks[0]; d.Format != "qcow2" || !d.ReadOnly || b.host.asked != "linux" {
		t.Errorf("disk %+v of guest %s", d, b.host.asked)
	}
	b.session.init.end(0)
	b.wait()
	b.remove()
	b.wantNothing()
}

// TestFinishedDiskNamesGuest: what boots follows the image when nobody says
// something else.
func TestFinishedDiskNamesGuest(t *testing.T) {
	b := newBench(t)
	b.host.watcher = &fakeWatcher{fakeGuest: fakeGuest{session: b.session}}
	b.host.disks.record = []byte{3}
	b.bring("nanos", "qcow2")
	c := b.must(true)
	if d := b.host.machines.Made[0].Disks; b.host.asked != "nanos" || len(d) != 1 || d[0].Path != c.names.bootLayer() || b.host.disks.base != "qcow2" {
		t.Errorf("guest %s, disks %+v over %s", b.host.asked, d, b.host.disks.base)
	}
	b.host.machines.End(c.names.Sandbox.Domain(), unikernel.EndShutdown)
	b.wait()
	b.remove()
	b.wantNothing()
}

func TestFinishedDiskRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		config, annotation, guest, want string
	}{
		"annotation":    {"", "linux", "nanos", `"linux" is asked for`},
		"configuration": {`guest = "linux"`, "", "nanos", `"linux" is asked for`},
		"forbidden":     {"annotations.allowed = []", "", "nanos", "annotations.allowed"},
		"unknown":       {"", "", "dos", "known are"},
	} {
		b := newBench(t)
		if tt.config != "" {
			b.configure(tt.config)
		}
		if tt.annotation != "" {
			b.spec.Annotations = map[string]string{config.AnnotationPrefix + "guest": tt.annotation}
		}
		b.bring(tt.guest, "raw")
		if _, err := b.create(); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		b.wantNothing()
	}
}

// TestProgramInLayer: of a program that may be among the layer's files nothing is said.
func TestProgramInLayer(t *testing.T) {
	d := &diskSet{maker: &fakeDisks{missing: "nosuch"}, layer: &unikernel.Layer{Upper: t.TempDir()},
		requests: []unikernel.DiskRequest{{Kind: unikernel.DiskRoot}}}
	c := &Container{disks: d}
	if !d.missing([]string{"nosuch"}, nil, "/") || c.filesElsewhere() {
		t.Error("a program that is not there is not missed")
	}
	if err := os.WriteFile(filepath.Join(d.layer.Upper, "nosuch"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if !c.filesElsewhere() {
		t.Error("a program is missed that somebody put there")
	}
}
