package integration

import (
	"fmt"
	"strings"
	"testing"
)

// What a container sees of itself is what it sees under runc.
func TestSameAsRunc(t *testing.T) {
	uniOnly(t)
	tests := []struct{ name, script string }{
		{"capabilities", "grep -E '^(Cap|NoNewPrivs)' /proc/self/status"},
		{"system calls", "grep ^Seccomp: /proc/self/status; dmesg 2>&1 | grep -o 'not permitted'; unshare -r true 2>&1 | grep -o 'not permitted'"},
		{"environment", "env | sort"},
		{"identity", "id; umask; pwd; hostname | wc -w"},
		{"limits", "ulimit -n; ulimit -u >/dev/null && echo nproc"},
		{"devices", "cd /dev; ls -d null zero full random urandom tty ptmx pts shm mqueue fd stdin stdout stderr"},
		{"device nodes", "for d in null zero full random urandom; do stat -c '%n %a %t:%T %F' /dev/$d; done"},
		{"nodes of other devices", "mknod /null c 1 3 && echo x >/null && echo null; mknod /kmsg c 1 11 && echo made; (echo x >/kmsg) 2>&1 | grep -o 'not permitted'; mknod /disk b 254 0; head -c 1 /disk 2>&1 | grep -o 'not permitted'"},
		{"links", "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done"},
		{"file systems", "awk '{print $5, $9}' /proc/self/mountinfo | grep -E '^/(proc|dev|dev/pts|dev/shm|dev/mqueue|sys) ' | sort"},
		// A kernel may be built without any of these: what counts is that nothing can be read.
		{"masked", "for f in kcore timer_list; do head -c 1 /proc/$f 2>/dev/null | wc -c; done; for d in /proc/scsi /sys/firmware; do ls $d 2>/dev/null | wc -l; done"},
		{"read-only", "for f in /proc/sys/kernel/hostname /proc/irq /proc/bus; do touch $f/x $f 2>&1 | grep -o 'Read-only file system' | head -n 1; done"},
		{"processes", "ls -d /proc/[0-9]* | head -n 1; echo $$; cat /proc/1/comm"},
		{"streams", "echo x >/dev/stdout; echo y >/dev/stderr; [ -t 0 ] || echo no terminal"},
		// Signals 1 to 28: runc hands on what containerd's own parent ignored of the rest.
		{"signals that are ignored", "awk '/^SigIgn/ {print substr($2, 10)}' /proc/self/status"},
	}
	on(t, func(t *testing.T, h *host) {
		var script strings.Builder
		for _, tt := range tests {
			fmt.Fprintf(&script, "echo '== %s'; (%s) 2>&1\n", tt.name, tt.script)
		}
		var sections [2]map[string]string
		for i, runtime := range []string{"io.containerd.runc.v2", uniRuntime} {
			r := h.ctr(t, "run", "--rm", "--seccomp", "--runtime", runtime, busybox, "c1", "sh", "-c", script.String())
			if r.Code != 0 {
				t.Fatalf("%s: %+v", runtime, r)
			}
			sections[i] = map[string]string{}
			for _, s := range strings.Split(r.Stdout, "== ")[1:] {
				name, text, _ := strings.Cut(s, "\n")
				sections[i][name] = text
			}
		}
		for _, tt := range tests {
			if runc, uni := sections[0][tt.name], sections[1][tt.name]; runc != uni || runc == "" {
				t.Errorf("%s:\nrunc\n%suni\n%s", tt.name, runc, uni)
			}
		}
	})
}

// The machine is as large as the container's limits say.
func TestMachineSize(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		const script = "nproc; awk '/MemTotal/ {print ($2 < 128*1024), ($2 > 100*1024)}' /proc/meminfo"
		got := h.run(t, container{flags: []string{"--memory-limit", fmt.Sprint(128 << 20), "--cpus", "1.5"}}, "sh", "-c", script)
		if got.Stdout != "2\n1 1\n" {
			t.Errorf("got %+v, want two processors and a little less than 128 MiB", got)
		}
		flags := []string{"--annotation", "io.containerd.uni.memory=128MiB", "--annotation", "io.containerd.uni.vcpus=2"}
		if got := h.run(t, container{flags: flags}, "sh", "-c", script); got.Stdout != "2\n1 1\n" {
			t.Errorf("by annotations: got %+v", got)
		}
	})
}

// The container has a kernel of its own.
func TestGuestKernel(t *testing.T) {
	uniOnly(t)
	on(t, func(t *testing.T, h *host) {
		if got := h.run(t, container{}, "uname", "-sr"); !strings.HasPrefix(got.Stdout, "Linux 6.12.") || !strings.Contains(got.Stdout, "-uni") {
			t.Errorf("got %+v", got)
		}
	})
}
