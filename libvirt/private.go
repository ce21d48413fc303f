package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"containerd-shim-uni/unikernel"
)

// hiddenMax is how many bytes of a kernel's command line a file of settings takes:
// QEMU reads lines of 1024 bytes (util/qemu-config.c, qemu_config_foreach).
const hiddenMax = 1000

// hide keeps a private command line out of QEMU's own, which everybody on the host
// can read (/proc/PID/cmdline): it returns a file that the account alone can read,
// and that goes with unhide. Where that cannot be the log says so, and it returns "".
func (d *Driver) hide(m unikernel.Machine, a account) (string, error) {
	if !m.Private || len(m.Cmdline) == 0 {
		return "", nil
	}
	line := strings.Join(m.Cmdline, " ")
	if why := d.unhidable(line); why != "" {
		d.log("the environment of machine %s is in QEMU's command line, which everybody on the host can read (unless /proc is mounted with hidepid): %s", m.Name, why)
		return "", nil
	}
	file := d.hidden(m)
	if err := os.WriteFile(file, []byte("[machine]\n  append = \""+line+"\"\n"), 0o400); err != nil {
		return "", fmt.Errorf("hide the kernel's command line: %w", err)
	}
	if os.Geteuid() != 0 {
		return file, nil
	}
	return file, os.Chown(file, a.uid, a.gid)
}

// unhidable says why a command line cannot be in a file, which knows no escapes.
func (d *Driver) unhidable(line string) string {
	switch {
	case !d.target.embedded():
		return "a libvirtd may have QEMU read no file of ours (AppArmor, SELinux)"
	case len(line) > hiddenMax:
		return fmt.Sprintf("it has %d bytes, and a file of settings takes %d", len(line), hiddenMax)
	case strings.Contains(line, `"`):
		return "it holds a double quote, which no file of settings can"
	}
	return ""
}

// hidden is that file, in a directory that goes with the driver's root at the latest.
func (d *Driver) hidden(m unikernel.Machine) string {
	return filepath.Join(d.target.root, "etc", m.Name+".machine")
}

// unhide removes what hide made, when QEMU has read it or never will.
func (d *Driver) unhide(m unikernel.Machine) {
	if !m.Private || !d.target.embedded() {
		return
	}
	if err := os.Remove(d.hidden(m)); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log("after the start of machine %s: %v", m.Name, err)
	}
}
