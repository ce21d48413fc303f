package libvirt

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// TestQEMUPrivate: a private command line reaches the guest, which does what it says,
// and is neither in QEMU's own nor in a file when the guest begins.
func TestQEMUPrivate(t *testing.T) {
	onEachKind(t, "poweroff", func(t *testing.T, d *Driver, g *guest) {
		g.machine.Private = true
		g.machine.Cmdline = append(g.machine.Cmdline, `SECRET='a$b\c'`)
		pids, console := run(t, d, g)
		if line := strings.Join(arguments(pids.VM), " "); line == "" || strings.Contains(line, "SECRET") || !strings.Contains(line, "-readconfig") {
			t.Errorf("QEMU's command line is %s", line)
		}
		if _, err := os.Stat(d.hidden(g.machine)); !os.IsNotExist(err) {
			t.Errorf("the file: %v", err)
		}
		ended(t, d, g.machine.Name, unikernel.EndShutdown)
		console.await(t, "init poweroff")
	})
}

func TestHide(t *testing.T) {
	var said []string
	root := t.TempDir()
	d := newDriver(target{root: root}, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
	if err := os.Mkdir(root+"/etc", 0o711); err != nil {
		t.Fatal(err)
	}
	me := account{uid: os.Getuid(), gid: os.Getgid()}
	m := unikernel.Machine{Name: "m", Private: true, Cmdline: []string{"A=1", "B='x y'"}}
	file, err := d.hide(m, me)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "[machine]\n  append = \"A=1 B='x y'\"\n" {
		t.Errorf("%q, %v", data, err)
	}
	if got := perms(t, file); got != 0o400 {
		t.Errorf("its mode is %o", got)
	}
	dom, err := Domain(unikernel.Machine{Name: "m", Type: "q35", Kernel: "/k", Cmdline: m.Cmdline, Resources: unikernel.Resources{MemoryMiB: 64, VCPUs: 1}}, Host{CmdlineFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := dom.Marshal(); err != nil || strings.Contains(text, "A=1") || !strings.Contains(text, file) {
		t.Errorf("the document is %s, %v", text, err)
	}
	d.unhide(m)
	if left, _ := os.ReadDir(root + "/etc"); len(left) > 0 || len(said) > 0 {
		t.Errorf("left %v, said %q", left, said)
	}
	for want, line := range map[string][]string{
		"a double quote": {`A="x y"`}, "bytes": {strings.Repeat("x", hiddenMax+1)},
	} {
		m.Cmdline, said = line, nil
		if file, err := d.hide(m, me); file != "" || err != nil || len(said) != 1 || !strings.Contains(said[0], want) {
			t.Errorf("%q, %v, said %q, want %q", file, err, said, want)
		}
		d.unhide(m)
	}
	d.target = target{daemon: true}
	m.Cmdline, said = []string{"A=1"}, nil
	if file, err := d.hide(m, me); file != "" || err != nil || len(said) != 1 {
		t.Errorf("with a daemon: %q, %v, said %q", file, err, said)
	}
	m.Private, said = false, nil
	if file, err := d.hide(m, me); file != "" || err != nil || len(said) != 0 {
		t.Errorf("not private: %q, %v, said %q", file, err, said)
	}
}
