package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// uniCommand runs the operator's command as a user.
func uniCommand(t *testing.T, user uint32, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(world.out, "bin/uni"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A disk is the same whoever builds it, and its files are the image's.
func TestBuildAsOrdinaryUser(t *testing.T) {
	needPython(t)
	const nobody = 65534
	dir, err := os.MkdirTemp(world.dir, "build-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{busybox, python} {
		var disks [2][]byte
		for i, user := range []uint32{0, nobody} {
			disk := filepath.Join(dir, "disk.img")
			if out, err := uniCommand(t, user, "build", archive(name), "-o", disk); err != nil {
				t.Fatalf("%s as user %d: %v: %s", name, user, err, out)
			}
			if disks[i], err = os.ReadFile(disk); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(disk); err != nil {
				t.Fatal(err)
			}
		}
		if len(disks[0]) == 0 || !bytes.Equal(disks[0], disks[1]) {
			t.Errorf("%s: root and an ordinary user build different disks", name)
		}
	}
}

func TestCheckImage(t *testing.T) {
	needPython(t)
	for _, tt := range []struct {
		name, guest string
		ok          bool
		want        string
	}{
		{busybox, "linux", true, "/bin/busybox"},
		{busybox, "nanos", false, "is a shell"},
		{python, "linux", true, "all in the image"},
		{python, "nanos", true, "WARN  processes"},
		{hello, "nanos", true, "static"},
		{foreign, "linux", false, "linux/arm64"},
	} {
		out, err := uniCommand(t, 0, "check-image", archive(tt.name), "--guest", tt.guest)
		if (err == nil) != tt.ok || !strings.Contains(out, tt.want) {
			t.Errorf("%s for %s: %v, %s", tt.name, tt.guest, err, out)
		}
	}
}

// A disk for nanos boots by itself, in QEMU and nothing else, and starts the
// image's program.
func TestNanosDiskBootsByItself(t *testing.T) {
	nanosOnly(t)
	for _, format := range []string{"raw", "qcow2"} {
		disk := filepath.Join(t.TempDir(), "disk")
		out, err := uniCommand(t, 0, "build", archive(hello), "-o", disk, "--guest", "nanos", "--kernel", os.Getenv("UNI_NANOS_DIR"), "--format", format)
		if err != nil || strings.Contains(out, "warning") {
			t.Fatalf("build: %v, %s", err, out)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-nic", "none", "-display", "none",
			"-serial", "stdio", "-no-reboot", "-drive", "file="+disk+",if=virtio,format="+format)
		console, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(console), "hello from a static program") {
			t.Errorf("%s: %v, console %q", format, err, console)
		}
		if out, err := uniCommand(t, 0, "inspect", disk); err != nil || !strings.Contains(out, "program:      /hello") {
			t.Errorf("%s, once it ran: %v, %s", format, err, out)
		}
	}
}
