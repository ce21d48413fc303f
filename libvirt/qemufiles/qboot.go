package qemufiles

import (
	"os"
	"path/filepath"
)

// dataDirs are where QEMU's files without an architecture are: distributions'
// (/usr/share/qemu-kvm is CentOS's), and one that was built by hand.
var dataDirs = []string{"/usr/share/qemu", "/usr/share/qemu-kvm", "/usr/local/share/qemu"}

// QbootAdvice says how to get what Qboot looks for.
const QbootAdvice = "install the package that has QEMU's qboot.rom (Debian and Ubuntu: qemu-system-data)"

// Qboot returns the path of qboot.rom, a firmware that does nothing but start
// a kernel, or "". root is put before all paths; empty for this host.
//
// Machines of type microvm always name it. QEMU would look for
// bios-microvm.bin, which Debian 12 has as a link to it and Debian 13 does not
// have; then QEMU takes SeaBIOS, with which machines of this type do not boot
// reliably.
func Qboot(root string) string {
	for _, dir := range dataDirs {
		path := filepath.Join(dir, "qboot.rom")
		if info, err := os.Stat(root + path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}
