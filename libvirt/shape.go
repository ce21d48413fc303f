package libvirt

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"containerd-shim-uni/unikernel"
)

// Shape names what a machine must have in common with another to go on from its
// saved state, and what must not have changed on the host since then: the same
// machine on the same host has the same. It is the digest of the machine's document
// without what may differ (see unikernel.Machine.Neutral); of size, time and inode of the kernel, the
// initrd and QEMU; and of libvirt's version, the host's kernel and its processor, microcode
// included.
func (d *Driver) Shape(m unikernel.Machine) (string, error) {
	host := d.host
	host.UID, host.GID = 0, 0
	doc, err := Domain(m.Neutral("/"), host)
	if err != nil {
		return "", err
	}
	text, err := doc.Marshal()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%+v\n", text, host)
	qemu, err := exec.LookPath(emulator)
	if err != nil {
		return "", err
	}
	for _, path := range []string{m.Kernel, m.Initrd, qemu, host.Firmware} {
		if err := identify(sum, path); err != nil {
			return "", err
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", err
	}
	cpu, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer cpu.Close()
	fmt.Fprintf(sum, "%s\n%s\n%s", uts.Release, uts.Version, processorOf(cpu))
	return hex.EncodeToString(sum.Sum(nil))[:shapeDigits], nil
}

// shapeDigits is how much of the digest is a shape's name.
const shapeDigits = 32

// emulator is the QEMU that libvirt takes.
const emulator = "qemu-system-x86_64"

// identify writes what changes when a file does.
func identify(to io.Writer, path string) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	_, err = fmt.Fprintf(to, "%s %d %d %d.%d\n", path, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec)
	return err
}

// processorOf is what /proc/cpuinfo says of the first processor and does not change
// while the host runs.
func processorOf(cpuinfo io.Reader) string {
	var kept strings.Builder
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(name) {
		case "": // the next one
			return kept.String()
		case "cpu MHz", "bogomips", "processor", "apicid", "initial apicid", "core id", "physical id":
		default:
			kept.WriteString(lines.Text() + "\n")
		}
	}
	return kept.String()
}
