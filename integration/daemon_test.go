package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/integration/peer"
)

// ownLibvirt gives containerd, and the shims it starts, a mount namespace in
// which libvirt's directories are empty: no daemon of this machine is met.
var ownLibvirt = []string{"unshare", "--mount", "--propagation", "private", "sh", "-ec", `
for dir in /run/libvirt /var/log/libvirt /var/lib/libvirt; do
	mkdir -p $dir
	mount -t tmpfs -o mode=755 tmpfs $dir
done
# As udev would have it, for libvirtd: one that cannot open the device as its
# user probes QEMU at each start for a minute. The host's own is left alone.
if [ -c /dev/kvm ]; then
	cp -a /dev/kvm /run/libvirt/kvm
	chgrp kvm /run/libvirt/kvm
	chmod 660 /run/libvirt/kvm
	mount --bind /run/libvirt/kvm /dev/kvm
fi
exec "$@"`, "sh"}

// daemonHost is a host whose shims use qemu:///system, with no daemon yet.
func daemonHost(t *testing.T) *host {
	t.Helper()
	uniOnly(t)
	version := versions[len(versions)-1]
	folder := "d" + strconv.Itoa(len(world.hosts))
	h, err := newHost(t.Context(), version, folder, ownLibvirt)
	if err != nil {
		t.Fatal(err)
	}
	world.hosts[folder] = h
	h.load(t, busybox)
	h.with(t, settings{"libvirt.uri": `"qemu:///system"`})
	h.watch(t)
	return h
}

// daemon starts one of libvirt's in the host's namespaces and returns when
// its socket is there. It is killed at the end of the test.
func (h *host) daemon(t *testing.T, name, socket string) *exec.Cmd {
	t.Helper()
	namespaces := "/proc/" + strconv.Itoa(h.Pid()) + "/ns/"
	log, err := os.Create(filepath.Join(h.Dir, name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("nsenter", "--mount="+namespaces+"mnt", "--net="+namespaces+"net", name)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	path := filepath.Join("/proc", strconv.Itoa(h.Pid()), "root/run/libvirt", socket)
	eventually(t, name+" listens on "+socket, func() bool { return exists(path) })
	return cmd
}

// stop kills a command and waits for it; one that ended before is no error.
func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
}

func TestDaemonThatIsNotThere(t *testing.T) {
	h := daemonHost(t)
	h.refused(t, container{}, "qemu:///system", "libvirtd")
}

func TestThroughTheDaemon(t *testing.T) {
	h := daemonHost(t)
	h.daemon(t, "virtlogd", "virtlogd-sock")
	h.daemon(t, "libvirtd", "libvirt-sock")
	got := h.run(t, container{}, "sh", "-c", "echo out; echo err >&2; exit 7")
	if want := (peer.Result{Stdout: "out\n", Stderr: "err\n", Code: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	h.noDomains(t)
}

// A container goes on while the daemon is away, and can be killed then.
func TestDaemonThatDies(t *testing.T) {
	h := daemonHost(t)
	h.daemon(t, "virtlogd", "virtlogd-sock")
	libvirtd := h.daemon(t, "libvirtd", "libvirt-sock")
	h.detach(t, container{}, "sleep", "1000")
	h.detach(t, container{id: "c2"}, "sleep", "1000")
	stop(libvirtd)
	if r := h.ctr(t, "tasks", "exec", "--exec-id", "e1", "c1", "echo", "alive"); r.Stdout != "alive\n" {
		t.Errorf("exec: %+v", r)
	}
	if code := h.remove(t, "c1"); code != 137 {
		t.Errorf("status %d, want 137", code)
	}
	h.daemon(t, "libvirtd", "libvirt-sock")
	if code := h.remove(t, "c2"); code != 137 {
		t.Errorf("with the daemon back: status %d, want 137", code)
	}
	h.noDomains(t)
}

// noDomains fails the test when the daemon knows a domain.
func (h *host) noDomains(t *testing.T) {
	t.Helper()
	mounts := "/proc/" + strconv.Itoa(h.Pid()) + "/ns/mnt"
	eventually(t, "the daemon has no domain", func() bool {
		out, err := exec.Command("nsenter", "--mount="+mounts, "virsh", "-c", "qemu:///system", "list", "--all", "--name").CombinedOutput()
		return err == nil && strings.TrimSpace(string(out)) == ""
	})
}
