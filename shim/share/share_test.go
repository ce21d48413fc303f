package share

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestPlan(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	shares, err := Plan([]specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/a", Type: "bind", Source: dir},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/b", Type: "none", Source: file, Options: []string{"rbind", "ro"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(shares) != 2 || shares[0].Name != "0" || shares[0].Mount.Destination != "/a" || shares[1].Name != "1" || shares[1].Mount.Destination != "/b" {
		t.Errorf("shares %+v", shares)
	}
	if a, b := shares[0], shares[1]; !a.Dir || a.Size != 0 || b.Dir || b.Size != 5 {
		t.Errorf("sources %+v", shares)
	}
}

func TestPlanRefuses(t *testing.T) {
	dir := t.TempDir()
	socket, fifo, link := filepath.Join(dir, "socket"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink("/dev/null", link)); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		socket: "a socket", fifo: "a fifo", "/dev/null": "a device", link: "a device",
		"/proc": "host's /proc", "/sys": "host's /sys", "/proc/sys": "host's /proc", "/dev": "host's /dev",
	} {
		_, err := Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: source}})
		if !errors.Is(err, unikernel.ErrNotImplemented) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
	}
	_, err = Plan([]specs.Mount{{Destination: "/x", Type: "bind", Source: filepath.Join(dir, "nonexistent")}})
	if !errors.Is(err, unikernel.ErrInvalid) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
}

func TestUnshareable(t *testing.T) {
	for path, ok := range map[string]bool{
		"/devices": true, "/system": true, "/proc2/x": true, "/dev/shm/a": true, "/dev/shm": false, "/dev/pts/0": false,
	} {
		if got := unshareable(path, 0) == ""; got != ok {
			t.Errorf("%s: shareable %v", path, got)
		}
	}
}

// TestUnmountRemovesMountPointsOnly: what is not an empty mount point is not ours.
func TestUnmountRemovesMountPointsOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "share")
	if err := Unmount(dir); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "0"), 0o700), os.WriteFile(filepath.Join(dir, "1"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(dir); err != nil {
		t.Errorf("mount points: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
	data := filepath.Join(dir, "0", "data")
	if err := errors.Join(os.MkdirAll(filepath.Dir(data), 0o700), os.WriteFile(data, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Unmount(dir); err == nil {
		t.Error("a directory with data was taken for a mount point")
	}
	if _, err := os.Stat(data); err != nil {
		t.Errorf("data is gone: %v", err)
	}
}
