package boottest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// finish acknowledges the container's exit and sees the machine end.
func (m *machine) finish() {
	m.t.Helper()
	if err := m.session.Shutdown(m.context()); err != nil {
		m.t.Fatalf("shutdown: %v", err)
	}
	m.waitEnd()
}

// TestMachineTypes says hello on the other machine types.
func TestMachineTypes(t *testing.T) {
	needQEMU(t)
	root := image(t)
	for _, machineType := range []string{"q35", "pc"} {
		t.Run(machineType, func(t *testing.T) {
			a := app("echo", "hello")
			m := boot(t, machineType, root, a)
			var out lockedBuffer
			if got := m.await(m.run(a, unikernel.Stdio{Stdout: &out})); got != 0 || out.String() != "hello\n" {
				t.Errorf("status %d, stdout %q", got, out.String())
			}
			m.finish()
		})
	}
}

// TestReadonlyRootAndTerminal: a container on a terminal with a read-only root
// and a cwd that is not in the image.
func TestReadonlyRootAndTerminal(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", `pwd; tty; stty size; [ -c /dev/console ] && echo console; touch /etc/x 2>/dev/null || echo readonly; touch /tmp/x && echo tmp; exec sh`)
	a.Spec.Root.Readonly = true
	a.Spec.Process.Terminal = true
	a.Spec.Process.Cwd = "/made/here"
	a.Spec.Process.ConsoleSize = &specs.Box{Width: 100, Height: 30}
	a.Spec.Mounts = append(a.Spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	m := boot(t, "microvm", image(t), a)
	in, inW := io.Pipe()
	var out lockedBuffer
	p := m.run(a, unikernel.Stdio{Stdin: in, Stdout: &out})
	for _, want := range []string{"/made/here\r\n", "/dev/pts/0\r\n", "30 100\r\n", "console\r\n", "readonly\r\n", "tmp\r\n"} {
		waitOutput(t, &out, want)
	}
	if err := p.Resize(m.context(), 77, 11); err != nil {
		t.Fatal(err)
	}
	io.WriteString(inW, "stty size\n")
	waitOutput(t, &out, "11 77\r\n")
	io.WriteString(inW, "echo last words; exit 9\n")
	if got := m.await(p); got != 9 || !strings.HasSuffix(out.String(), "last words\r\n") {
		t.Errorf("status %d, output %q", got, out.String())
	}
	inW.Close()
	m.finish()
}

// TestAbsentReaderAtExit: nobody reads, the exit comes all the same, and what
// was written is there afterwards, even after the machine has gone.
func TestAbsentReaderAtExit(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "seq 1 50000; echo err >&2; exit 3")
	m := boot(t, "microvm", image(t), a)
	var out bytes.Buffer
	stuck := blocked{make(chan struct{}), &out}
	p := m.run(a, unikernel.Stdio{Stdout: stuck})
	<-p.Exited()
	_, err := m.session.Exec(m.context(), "x", process("true"), unikernel.Stdio{})
	if !errors.Is(err, unikernel.ErrInvalid) || err.Error() != "cannot exec in a stopped container" {
		t.Errorf("exec after the exit: %v", err)
	}
	m.finish()
	close(stuck.release)
	if got := m.await(p); got != 3 {
		t.Errorf("status %d, want 3", got)
	}
	if lines := strings.Split(out.String(), "\n"); len(lines) != 50001 || lines[49999] != "50000" {
		t.Errorf("%d lines", len(lines))
	}
}

// TestMissingProgram: the container's own program is not there.
func TestMissingProgram(t *testing.T) {
	needQEMU(t)
	a := app("nosuch")
	m := boot(t, "microvm", image(t), a)
	_, err := m.session.Run(m.context(), a, unikernel.Stdio{})
	if !errors.Is(err, unikernel.ErrNotFound) || err.Error() != `exec: "nosuch": executable file not found in $PATH` {
		t.Errorf("error %v", err)
	}
	m.finish()
}

// TestBadDisk: a root disk that is no image.
func TestBadDisk(t *testing.T) {
	needQEMU(t)
	a := app("true")
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	m := boot(t, "microvm", bad, a)
	_, err := m.session.Run(m.context(), a, unikernel.Stdio{})
	if err == nil || !strings.Contains(err.Error(), `mount disk "root" as erofs`) {
		t.Errorf("error %v", err)
	}
	m.finish()
}

// TestPowerOffFromWithin: a container that may reboot ends itself only, as
// under runc.
func TestPowerOffFromWithin(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "poweroff -f; sleep 1000")
	c := a.Spec.Process.Capabilities
	all := append(c.Effective, "CAP_SYS_BOOT")
	c.Effective, c.Permitted, c.Bounding = all, all, all
	m := boot(t, "microvm", image(t), a)
	p := m.run(a, unikernel.Stdio{})
	if got := m.await(p); got != 128+uint32(syscall.SIGINT) {
		t.Errorf("status %d, want 130", got)
	}
	m.finish()
}

// TestPanic: a kernel that panics ends the machine at once, and what the
// process had not lost is lost with a clear error.
func TestPanic(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "echo before; dd if=/dev/zero of=/dev/shm/big bs=1M 2>/dev/null; sleep 1000")
	a.Spec.Linux.Sysctl = map[string]string{"vm.panic_on_oom": "2"}
	for i := range a.Spec.Mounts {
		if a.Spec.Mounts[i].Destination == "/dev/shm" {
			a.Spec.Mounts[i].Options = []string{"size=1g"}
		}
	}
	m := boot(t, "microvm", image(t), a)
	var out lockedBuffer
	p := m.run(a, unikernel.Stdio{Stdout: &out})
	<-p.Exited()
	<-p.Drained()
	if _, err := p.Exit(); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("exit: %v, want ErrUnavailable", err)
	}
	m.waitEnd()
	if out.String() != "before\n" {
		t.Errorf("output %q", out.String())
	}
	if !strings.Contains(m.console.String(), "Kernel panic") {
		t.Errorf("the console does not tell of a panic: %q", m.console)
	}
}

// TestHostGone: a guest whose host hangs up ends.
func TestHostGone(t *testing.T) {
	needQEMU(t)
	a := app("sleep", "1000")
	m := boot(t, "microvm", image(t), a)
	p := m.run(a, unikernel.Stdio{})
	m.session.Close()
	if _, err := p.Exit(); !errors.Is(err, unikernel.ErrUnavailable) {
		t.Errorf("exit: %v, want ErrUnavailable", err)
	}
	m.waitEnd()
}

// TestLeastMemory: what Plan accepts boots.
func TestLeastMemory(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "echo hello; cat /etc/image")
	for _, machineType := range []string{"microvm", "q35", "pc"} {
		m := bootWith(t, machineType, unikernel.Resources{MemoryMiB: linux.MinMemoryMiB(machineType), VCPUs: 1}, image(t), a)
		var out lockedBuffer
		if got := m.await(m.run(a, unikernel.Stdio{Stdout: &out})); got != 0 || out.String() != "hello\nfrom the image\n" {
			t.Errorf("%s: status %d, stdout %q", machineType, got, out.String())
		}
		m.finish()
	}
}

// TestBindMounts shares files and directories of the host by virtiofs.
func TestBindMounts(t *testing.T) {
	needQEMU(t)
	daemon := "/usr/lib/qemu/virtiofsd"
	if _, err := os.Stat(daemon); err != nil {
		t.Skip(err)
	}
	share := t.TempDir()
	for _, dir := range []string{"0", "2"} {
		if err := os.Mkdir(filepath.Join(share, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(share, "1"), []byte("shared hosts\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := app("sh", "-c", `set -e; cat /etc/hosts; echo written > /rw/deep/out; ! touch /ro/x 2>/dev/null; grep -qE ' /ro virtiofs ro.*nosuid|^[^ ]* /ro virtiofs ro,nosuid' /proc/mounts; echo done`)
	for i, m := range []specs.Mount{
		{Destination: "/rw/deep", Type: "bind", Source: "/h/rw", Options: []string{"rbind", "rw"}},
		{Destination: "/etc/hosts", Type: "bind", Source: "/h/hosts", Options: []string{"rbind", "rprivate", "ro"}},
		{Destination: "/ro", Type: "none", Source: "/h/ro", Options: []string{"bind", "ro", "nosuid"}},
	} {
		a.Spec.Mounts = append(a.Spec.Mounts, m)
		a.Shares = append(a.Shares, unikernel.SharedMount{Mount: m, Name: strconv.Itoa(i)})
	}
	socket := filepath.Join(t.TempDir(), "fs.sock")
	fs := exec.Command(daemon, "--socket-path="+socket, "-o", "source="+share, "-o", "sandbox=chroot", "-f")
	var log lockedBuffer
	fs.Stdout, fs.Stderr = &log, &log
	if err := fs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fs.Process.Kill()
		fs.Wait()
	})
	for deadline := time.Now().Add(bootTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	m := boot(t, "q35", image(t), a, "-chardev", "socket,id=fs,path="+socket, "-device", "vhost-user-fs-pci,chardev=fs,tag=uni",
		"-object", "memory-backend-memfd,id=ram,size=128M,share=on", "-machine", "memory-backend=ram")
	var out, errOut lockedBuffer
	if got := m.await(m.run(a, unikernel.Stdio{Stdout: &out, Stderr: &errOut})); got != 0 || out.String() != "shared hosts\ndone\n" {
		t.Errorf("status %d, stdout %q, stderr %q; virtiofsd: %s", got, out.String(), errOut.String(), log.String())
	}
	m.finish()
	if b, err := os.ReadFile(filepath.Join(share, "0", "out")); err != nil || string(b) != "written\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
}

// TestLateHost: a guest that is up before its host connects waits for it.
func TestLateHost(t *testing.T) {
	needQEMU(t)
	a := app("echo", "hello")
	m := start(t, "microvm", unikernel.Resources{MemoryMiB: 128, VCPUs: 1}, image(t), a)
	time.Sleep(4 * time.Second) // several boots long
	m.attach()
	var out lockedBuffer
	if got := m.await(m.run(a, unikernel.Stdio{Stdout: &out})); got != 0 || out.String() != "hello\n" {
		t.Errorf("status %d, stdout %q", got, out.String())
	}
	m.finish()
}
