package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// loopDevice is a block device of the host that holds a text and then zeros, until the
// end of the test.
func loopDevice(t *testing.T, text string) (path, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, append([]byte(text), make([]byte, 4<<20-len(text))...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return path, file
}

// wrote checks what the file of a device begins with.
func wrote(t *testing.T, device, file, want string) {
	t.Helper()
	if out, err := exec.Command("blockdev", "--flushbufs", device).CombinedOutput(); err != nil {
		t.Fatalf("blockdev: %v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(data[:len(want)]); got != want {
		t.Errorf("the device begins with %q, want %q", got, want)
	}
}

// TestBlockDevice: a block device of the host is a disk of the machine, at the path that
// was asked for, and its container can open no other.
func TestBlockDevice(t *testing.T) {
	on(t, func(t *testing.T, h *host) {
		device, file := loopDevice(t, "the first")
		script := fmt.Sprintf(`stat -c "%%F %%a" %s; head -c 9 %[1]s; echo; printf written >%[1]s; sync
			major=$((0x$(stat -c %%t %[1]s)))
			for n in 0 16 32 48; do mknod /tmp/$n b $major $n; head -c 1 /tmp/$n >/dev/null 2>&1 && echo $n; done | wc -l`, device)
		got := h.run(t, container{flags: []string{"--device", device}}, "sh", "-c", script)
		if want := "block special file 600\nthe first\n1\n"; got.Stdout != want || got.Code != 0 {
			t.Errorf("got %+v, want %q", got, want)
		}
		wrote(t, device, file, "written")
		h.refused(t, container{flags: []string{"--device", "/dev/loop-control"}}, "/dev/loop-control", "only block devices")
	})
}

// opened checks that all that a machine's QEMU sees of the host is mounted without
// devices but for one.
func opened(t *testing.T, qemus []int, suffix string) {
	t.Helper()
	if len(qemus) != 1 {
		t.Fatalf("machines %v, want one", qemus)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", qemus[0]))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) { // proc(5): number, parent, device, root, mount point, options
		if f := strings.Fields(line); len(f) > 5 && !slices.Contains(strings.Split(f[5], ","), "nodev") {
			found = append(found, f[4])
		}
	}
	if len(found) != 1 || !strings.HasSuffix(found[0], suffix) {
		t.Errorf("QEMU can open devices at %q, want one that ends in %s", found, suffix)
	}
}

// TestCRIBlockDevice: a raw block volume of a pod (volumeDevices) is at the path that the
// container names; it goes with the container, and can come again.
func TestCRIBlockDevice(t *testing.T) {
	uniOnly(t)
	n := newNode(t, newest())
	p := n.runPod(t, nil)
	device, file := loopDevice(t, "from the host")
	volume := func(permissions string) object {
		return object{"devices": []object{{"container_path": "/dev/xvda", "host_path": device, "permissions": permissions}}}
	}
	writer := p.run(t, volume("mrw"), "head -c 13 /dev/xvda; echo; printf 'from the pod.' >/dev/xvda; sync; exec sleep 1000")
	eventually(t, "the writer has read", func() bool { return n.do(t, "logs", writer) == "from the host" })
	opened(t, n.find(t, "qemu-system"), "/device-2")
	n.do(t, "stop", "-t", "0", writer)
	wrote(t, device, file, "from the pod.")
	reader := p.run(t, volume("mr"), "head -c 13 /dev/xvda; echo; (printf x >/dev/xvda) 2>/dev/null || echo refused")
	if s := n.exited(t, reader); s.ExitCode != 0 || n.do(t, "logs", reader) != "from the pod.\nrefused" {
		t.Errorf("the reader: %+v, %q", s, n.do(t, "logs", reader))
	}
	n.do(t, "rmp", "-f", p.id)
	wrote(t, device, file, "from the pod.")
}
