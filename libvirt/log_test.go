package libvirt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// endless writes through a descriptor until the file behind path was emptied, or for
// ten times what a log may have.
func endless(t *testing.T, f *os.File, path string) {
	t.Helper()
	line := []byte(strings.Repeat("virtio: a device is broken\n", 1000))
	for written := 0; written < 10*maxLog; written += len(line) {
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() <= maxLog {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log has %d bytes", info.Size())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestLogsAreBounded(t *testing.T) {
	dir, done, ended := t.TempDir(), make(chan struct{}), make(chan struct{})
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write(t, one, "kept\n", 0o600)
	write(t, two, "", 0o600)
	go func() { defer close(ended); boundLogs([]string{one, two}, done) }()
	f, err := os.OpenFile(two, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	endless(t, f, two)
	if data, err := os.ReadFile(one); err != nil || string(data) != "kept\n" {
		t.Errorf("a short log holds %q, %v", data, err)
	}
	close(done)
	<-ended
}

// TestQEMULog: a QEMU that prints for ever, by its own descriptor.
func TestQEMULog(t *testing.T) {
	embedded(t, func(t *testing.T, d *Driver) {
		g := newGuest(t, "uni-test--log", "microvm", "hang")
		pids, _ := create(t, d, g)
		pidfd, err := unix.PidfdOpen(pids.VM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pidfd)
		fd, err := unix.PidfdGetfd(pidfd, 2, 0)
		if err != nil {
			t.Fatal(err)
		}
		stderr := os.NewFile(uintptr(fd), "QEMU's standard error")
		defer stderr.Close()
		endless(t, stderr, d.ownLogs(g.machine)[0])
	})
}
