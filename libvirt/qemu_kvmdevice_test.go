package libvirt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirtxml"

	"containerd-shim-uni/libvirt/confine"
	"containerd-shim-uni/libvirt/kvm"
	"containerd-shim-uni/unikernel"
)

const accessList = "system.posix_acl_access"

// TestQEMUDeviceOfKVM: in the /dev that libvirt makes for a QEMU, KVM's device is
// open to the machine's user, also where it is closed to every group, and the host's
// own is as before when the guest begins. The processor is emulated all the same.
func TestQEMUDeviceOfKVM(t *testing.T) {
	needQEMU(t)
	if os.Getenv("UNI_TEST_CHILD") != t.Name() {
		cmd := child(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("child: %v\n%s", err, out)
		}
		return
	}
	device := ownDevice(t)
	d := openEmbed(t)
	if !d.account.lists {
		t.Fatal("no access lists")
	}
	d.host.KVM = true
	d.document = func(m unikernel.Machine, h Host) (*libvirtxml.Domain, error) {
		h.KVM = false
		return Domain(m, h)
	}
	seen := false
	d.enclose = func(pid int, files []confine.File) error {
		seen = true
		list := make([]byte, 1024)
		n, err := unix.Getxattr(filepath.Join("/proc", itoa(pid), "root/dev/kvm"), accessList, list)
		entry := binary.LittleEndian.AppendUint32([]byte{2, 0, 6, 0}, uint32(owner(t, pid))) // ACL_USER, read and write
		if err != nil || !bytes.Contains(list[:n], entry) {
			t.Errorf("QEMU's device has the list %x, %v; want %x in it", list[:max(n, 0)], err, entry)
		}
		return confine.To(pid, files)
	}
	g := newGuest(t, "uni-test--device", "microvm", "hang")
	create(t, d, g)
	if !seen {
		t.Error("nothing was looked at")
	}
	if _, err := unix.Getxattr(device, accessList, nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("the host's device keeps a list: %v", err)
	}
	if got := perms(t, device); got != 0o600 {
		t.Errorf("the host's device has mode %o", got)
	}
}

// ownDevice gives this mount namespace a /dev with little but a device of KVM that is
// root's alone. It is no mount of its own, which libvirt would keep as it is.
func ownDevice(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) { // libvirt looks for these
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, "/dev/") {
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	}
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/dev", unix.MNT_DETACH) })
	for name, node := range map[string]struct{ mode, major, minor uint32 }{ // Documentation/admin-guide/devices.txt
		"null": {0o666, 1, 3}, "zero": {0o666, 1, 5}, "full": {0o666, 1, 7}, "random": {0o666, 1, 8}, "urandom": {0o666, 1, 9},
		"ptmx": {0o666, 5, 2}, "kvm": {0o600, 10, 232},
	} {
		path := "/dev/" + name
		err := unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(node.major, node.minor)))
		if err := errors.Join(err, os.Chmod(path, os.FileMode(node.mode))); err != nil {
			t.Fatal(err)
		}
	}
	return kvm.Device
}
