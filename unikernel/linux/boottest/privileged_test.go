package boottest

import (
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestPrivileged: a container that may have every device has its machine's, but for
// those that the runtime works with; cgroups below its own are its own, its limits are
// not. It gives controllers to them, as systemd does, which leaves no place for a
// further process in the cgroup that was made for it.
func TestPrivileged(t *testing.T) {
	needQEMU(t)
	a := app("sh", "-c", "mkdir /sys/fs/cgroup/init && echo 1 >/sys/fs/cgroup/init/cgroup.procs && echo +pids >/sys/fs/cgroup/cgroup.subtree_control && echo given; exec sleep 1000")
	s := a.Spec
	var all []string
	for _, name := range []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_ADMIN", "SYS_ADMIN", "SYS_RESOURCE", "MKNOD", "SYSLOG"} {
		all = append(all, "CAP_"+name)
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	s.Process.Rlimits = nil
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Type == "cgroup" || m.Type == "sysfs" {
			m.Options = []string{"rw", "nosuid", "noexec", "nodev"}
		}
	}
	limit := int64(50)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}, {Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
	s.Linux.Resources = &specs.LinuxResources{
		Pids:    &specs.LinuxPids{Limit: &limit},
		Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}},
	}
	m := bootWith(t, "microvm", unikernel.Resources{MemoryMiB: 128, VCPUs: 1}, image(t), a)
	var out lockedBuffer
	p := m.run(a, unikernel.Stdio{Stdout: &out})
	waitOutput(t, &out, "given\n")
	checkConditions(t, m, []string{
		`[ -c /dev/fuse ] && [ -b /dev/loop0 ] && [ -c /dev/kmsg ] && head -c 1 /dev/kmsg >/dev/null`,
		`! [ -e /dev/vda ] && ! [ -e /dev/sda ] && ! [ -e /dev/kvm ] && ! [ -e /dev/ttyS0 ] && [ -z "$(ls /dev | grep vport)" ]`,
		`mknod /raw b $(tr : ' ' </sys/block/vda/dev) && ! head -c 1 /raw 2>/raw.err && grep -q 'not permitted' /raw.err`,
		`mknod /serial c 4 64 && ! (echo x >/serial) 2>/serial.err && grep -q 'not permitted' /serial.err`,
		`[ "$(grep 0:: /proc/self/cgroup)" = 0::/init ]`,
		`mkdir /sys/fs/cgroup/sub && echo 5 >/sys/fs/cgroup/sub/pids.max && [ "$(cat /sys/fs/cgroup/sub/pids.max)" = 5 ]`,
		`! (echo max >/sys/fs/cgroup/pids.max) 2>/dev/null && [ "$(cat /sys/fs/cgroup/pids.max)" = 50 ]`,
		`echo 1 >/proc/sys/net/ipv4/ip_forward`,
		`[ "$(cat /proc/sys/vm/max_map_count)" = 1048576 ] && [ "$(cat /proc/sys/kernel/pid_max)" = 4194304 ] && [ "$(cat /proc/sys/kernel/threads-max)" = 127000 ]`,
		`grep -q '^Max open files *1024 *524288' /proc/self/limits && grep -q '^Max processes *63500 *63500' /proc/self/limits`,
	})
	m.end(p)
}
