package boottest

import (
	"errors"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
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
	few, many, memory, none := uint64(12), uint64(100), uint64(32<<20), uint64(0)
	for _, least := range []uint64{1, 3} { // no process; one that has no threads
		limit(unikernel.Limits{Pids: &least})
		_, err := m.session.Exec(m.context(), "x", process("true"), unikernel.Stdio{})
		if !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "limit of processes") {
			t.Errorf("a process too many, limit %d: %v", least, err)
		}
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
