package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestTransports: disks and interfaces are found by the driver of the bus that they are
// on, and other devices are left alone.
func TestTransports(t *testing.T) {
	sys := t.TempDir()
	mkdir := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(sys, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, path string) {
		t.Helper()
		mkdir(filepath.Dir(path))
		if err := os.Symlink(to, filepath.Join(sys, path)); err != nil {
			t.Fatal(err)
		}
	}
	mkdir("bus/virtio/devices")
	mkdir("bus/platform/drivers/virtio-mmio")
	mkdir("bus/pci/drivers/virtio-pci")
	for i, d := range []struct{ kind, parent, bus, driver string }{
		{"0x0001", "devices/platform/LNRO0005:03", "platform", "virtio-mmio"},
		{"0x0003", "devices/platform/LNRO0005:04", "platform", "virtio-mmio"}, // console
		{"0x0002", "devices/pci0000:00/0000:00:04.0", "pci", "virtio-pci"},
	} {
		name := "virtio" + formatUint(uint64(i))
		mkdir(d.parent + "/" + name)
		if err := os.WriteFile(filepath.Join(sys, d.parent, name, "device"), []byte(d.kind+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		link("../../../bus/"+d.bus+"/drivers/"+d.driver, d.parent+"/driver")
		link("../../../"+d.parent+"/"+name, "bus/virtio/devices/"+name)
	}
	got, err := transports(sys)
	want := []transport{{sys + "/bus/platform/drivers/virtio-mmio", "LNRO0005:03"}, {sys + "/bus/pci/drivers/virtio-pci", "0000:00:04.0"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
}
