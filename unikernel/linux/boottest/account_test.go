package boottest

import (
	"errors"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestAccount: the guest counts what the container uses, and holds it to limits
// that came later.
func TestAccount(t *testing.T) {
	needQEMU(t)
	a := app("sleep", "1000")
	m := boot(t, "microvm", image(t), a)
	p := m.run(a, unikernel.Stdio{})
	accountant := m.session.(unikernel.Accountant)
	count := func() unikernel.Stats {
		t.Helper()
		s, err := accountant.Stats(m.context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := count()
	if before.Pids != 1 || before.Memory.Usage == 0 || before.Memory.Usage > 32<<20 || before.CPU.Usage == 0 || before.Memory.Limit != 0 ||
		before.Memory.Stat["anon"] == 0 {
		t.Errorf("one sleeping program: %+v", before)
	}
	if r := m.sh("dd if=/dev/zero of=/written bs=1M count=20 && cat /written >/dev/null && sync"); r.status != 0 {
		t.Fatalf("%+v", r)
	}
	after := count()
	written := uint64(0)
	for _, b := range after.Block {
		written += b.WriteBytes
	}
	if after.CPU.Usage <= before.CPU.Usage || after.Memory.Stat["file"] < 20<<20 || written < 20<<20 {
		t.Errorf("after 20 MiB were written: %+v", after)
	}

	limit := func(l unikernel.Limits) {
		t.Helper()
		if err := accountant.Limit(m.context(), l); err != nil {
			t.Fatal(err)
		}
	}
	one, two, few, many, memory, none := uint64(1), uint64(2), uint64(12), uint64(100), uint64(32<<20), uint64(0)
	limit(unikernel.Limits{Pids: &one})
	if _, err := m.session.Exec(m.context(), "x", process("true"), unikernel.Stdio{}); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "limit of processes") {
		t.Errorf("a process too many: %v", err)
	}
	limit(unikernel.Limits{Pids: &two})
	for range 10 {
		if r := m.exec(process("grep", "^0::", "/proc/self/cgroup"), nil); r.status != 0 || r.out != "0::/\n" {
			t.Errorf("as many processes as the limit: %+v", r)
		}
	}
	if r := m.exec(process("sh", "-c", "sleep 0; exit 7"), nil); r.status == 7 {
		t.Errorf("a process of an exec beyond the limit: %+v", r)
	}
	limit(unikernel.Limits{Pids: &few})
	if r := m.sh("for i in $(seq 30); do sleep 1 & done; wait"); r.status == 0 {
		t.Errorf("more processes than the limit: %+v", r)
	}
	limit(unikernel.Limits{Pids: &many, Memory: &memory})
	const fill = "head -c 40000000 /dev/zero | tail -n 1 >/dev/null"
	if r := m.sh(fill); r.status != 137 {
		t.Errorf("more memory than the limit: %d, %q", r.status, r.errOut)
	}
	if s := count(); s.Memory.Limit != memory || s.PidsLimit != many || s.Memory.Events["oom_kill"] == 0 {
		t.Errorf("limits in force: %+v", s.Memory.Events)
	}
	limit(unikernel.Limits{Memory: &none})
	if r := m.sh(fill); r.status != 0 {
		t.Errorf("without the limit: %d, %q", r.status, r.errOut)
	}
	m.end(p)
}

// TestFewProcesses: a container may have as many processes as its limit says, one too.
func TestFewProcesses(t *testing.T) {
	needQEMU(t)
	root := image(t)
	for limit, want := range map[int64]string{1: "0::/\n1 1\n", 2: "0::/\n2 1\nallowed\n"} {
		a := app("sh", "-c", `
			while read line; do group=$line; done </proc/self/cgroup; read max </sys/fs/cgroup/pids.max; read now </sys/fs/cgroup/pids.current
			echo "$group"; echo "$max $now"
			sleep 0; echo allowed`) // a shell that cannot fork ends; version 2 is the last line
		a.Spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
		m := boot(t, "microvm", root, a)
		var out lockedBuffer
		p := m.run(a, unikernel.Stdio{Stdout: &out})
		m.await(p)
		if out.String() != want {
			t.Errorf("limit %d: %q, want %q", limit, out.String(), want)
		}
		m.finish()
	}
}
