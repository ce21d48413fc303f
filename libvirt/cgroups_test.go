package libvirt

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRemoveDaemonCgroups(t *testing.T) {
	root := t.TempDir()
	old := cgroupRoots
	t.Cleanup(func() { cgroupRoots = old })
	cgroupRoots = []string{root, root + "/*"}
	ours := []string{"cpu/machine/qemu-1-uni-ns-c1.libvirt-qemu/vcpu0", "machine/qemu-22-uni-ns-c1.libvirt-qemu/emulator"}
	others := []string{"cpu/machine/qemu-1-uni-ns-c11.libvirt-qemu", "machine/qemu-3-uni-n-s-c1.libvirt-qemu", "cpu/machine/lxc-1-uni-ns-c1.libvirt-lxc"}
	for _, dir := range append(ours, others...) {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	removeDaemonCgroups("uni-ns--c1")
	for _, dir := range ours {
		if _, err := os.Stat(filepath.Dir(filepath.Join(root, dir))); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	for _, dir := range others {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			t.Errorf("%s of another machine is gone", dir)
		}
	}
}
