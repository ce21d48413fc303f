package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"containerd-shim-uni/libvirt/confine/confinetest"

	"golang.org/x/sys/unix"
)

// prisoner is a process in a mount namespace of its own, in QEMU's place.
func prisoner(t *testing.T, flags uintptr) int {
	t.Helper()
	if os.Getenv("UNI_QEMU_TESTS") != "1" {
		t.Skip("mounts; set UNI_QEMU_TESTS=1")
	}
	cmd := exec.CommandContext(t.Context(), "cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	// As QEMU when it answers, it then has its libraries.
	if _, err := io.WriteString(in, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestConfine: a process has the files it is given and no other, before and after
// one comes and goes; the host's mounts and our own root stay as they are.
func TestConfine(t *testing.T) {
	pid := prisoner(t, syscall.CLONE_NEWNS)
	defer unix.Umask(unix.Umask(0o077)) // a shim's
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	disk, root, later := file("disk"), file("root"), file("later")
	before, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	files := []File{{Path: disk}, {Path: root, ReadOnly: true}, {Path: root, ReadOnly: true}}
	if err := To(pid, files); err != nil {
		t.Fatal(err)
	}
	if got, want := confinetest.View(t, pid), disk+" "+root; got != want {
		t.Errorf("the process has %q, want %q", got, want)
	}
	its := func(path string) string { return fmt.Sprintf("/proc/%d/root%s", pid, path) }
	if err := os.WriteFile(its(disk), []byte("written"), 0); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(disk); err != nil || string(got) != "written" {
		t.Errorf("the disk holds %q, %v", got, err)
	}
	if err := os.WriteFile(its(root), nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing a disk that is read: %v", err)
	}
	if info, err := os.Stat(its(dir)); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}

	one := []File{{Path: later}}
	for range 2 { // it may come again
		if err := Reveal(pid, one); err != nil {
			t.Fatal(err)
		}
		if got := confinetest.View(t, pid); got != disk+" "+later+" "+root {
			t.Errorf("after one came: %s", got)
		}
		if err := Conceal(pid, one); err != nil {
			t.Fatal(err)
		}
		if err := Conceal(pid, one); err != nil {
			t.Errorf("concealed again: %v", err)
		}
		if got := confinetest.View(t, pid); got != disk+" "+root {
			t.Errorf("after it went: %s", got)
		}
	}
	if err := errors.Join(Conceal(pid, files), Reveal(pid, one)); err != nil || confinetest.View(t, pid) != later {
		t.Errorf("without the first ones: %v, %s", err, confinetest.View(t, pid))
	}
	if after, err := os.ReadFile("/proc/self/mounts"); err != nil || string(after) != string(before) {
		t.Errorf("our mounts changed to %s, %v", after, err)
	}
}

// TestLabel: lines as the kernel writes them (proc(5), selinux_sb_show_options).
func TestLabel(t *testing.T) {
	const root = "20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,seclabel\n"
	dev := func(options string) string { return "30 20 0:40 / /dev rw,nosuid - tmpfs devfs " + options + "\n" }
	for mounts, want := range map[string]string{
		root:                               "",
		root + dev("rw,size=64k,mode=755"): "",
		root + dev("rw,seclabel,size=64k"): "",
		root + dev(`rw,context=u:r:t:s0,size=64k`):                              ",context=u:r:t:s0",
		root + dev(`rw,size=64k,context=u:r:t:s0`):                              ",context=u:r:t:s0",
		root + dev(`rw,context="u:object_r:svirt_t:s0:c1,c2",size=64k`):         `,context="u:object_r:svirt_t:s0:c1,c2"`,
		root + dev(`rw,defcontext=u:r:t:s0`):                                    "",
		root + dev(`rw,context=u:r:t:s0`) + dev("rw"):                           "",
		"31 20 0:41 / /dev/pts rw - devpts devpts rw,context=u:r:t:s0\nshort\n": "",
	} {
		if got := label(mounts, "/dev"); got != want {
			t.Errorf("%q: %q, want %q", mounts, got, want)
		}
	}
}

// TestNotConfined: a process that shares our namespace, or another's, keeps what
// it has, and nothing is hidden from it.
func TestNotConfined(t *testing.T) {
	pid := prisoner(t, 0)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one := []File{{Path: file}}
	if err := To(pid, one); !errors.Is(err, ErrShared) {
		t.Errorf("confine: %v", err)
	}
	if err := errors.Join(Reveal(pid, one), Conceal(pid, one)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if err := Alone(pid); !errors.Is(err, ErrShared) {
		t.Errorf("it is alone: %v", err)
	}
	if err := Alone(prisoner(t, syscall.CLONE_NEWNS)); err != nil {
		t.Error(err)
	}
}
