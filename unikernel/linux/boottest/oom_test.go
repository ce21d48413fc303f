package boottest

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// greedy wants more memory than the machine has.
const greedy = "dd if=/dev/zero of=/dev/null bs=200M"

// crowd are many that want a little each, again and again.
const crowd = "for i in $(seq 20); do while :; do dd if=/dev/zero of=/dev/null bs=8M count=20; done & done"

// killedByCgroup sees that the kernel ended processes since their container had no more
// memory, and never since the machine had none.
func (m *machine) killedByCgroup() {
	m.t.Helper()
	const killed = "ut of memory: Killed process"
	console := m.console.String()
	if n := strings.Count(console, "Memory cgroup o"+killed); n == 0 || n != strings.Count(console, killed) || strings.Contains(console, "panic") {
		m.t.Errorf("%d processes were killed by their cgroup:\n%s", n, console)
	}
}

// TestOutOfMemory: a process that the kernel kills for want of memory is told of
// before its exit, and also when nothing exits that the host knows.
func TestOutOfMemory(t *testing.T) {
	needQEMU(t)
	root := image(t)
	small := unikernel.Resources{MemoryMiB: 64, VCPUs: 1}
	t.Run("container", func(t *testing.T) {
		a := app("sh", "-c", "exec "+greedy)
		m := bootWith(t, "microvm", small, root, a)
		var told atomic.Int32
		m.session.OnOOM(func() { told.Add(1) })
		p := m.run(a, unikernel.Stdio{})
		<-p.Exited()
		if told.Load() != 1 {
			t.Errorf("told %d times before the exit", told.Load())
		}
		if got := m.await(p); got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		m.finish()
		m.killedByCgroup()
	})
	t.Run("child", func(t *testing.T) {
		a := app("sh", "-c", greedy+"; sleep 1000")
		m := bootWith(t, "microvm", small, root, a)
		told := make(chan struct{}, 100)
		m.session.OnOOM(func() { told <- struct{}{} })
		p := m.run(a, unikernel.Stdio{})
		select {
		case <-told:
		case <-p.Exited():
			t.Error("the container exited")
		case <-time.After(processTimeout):
			t.Error("not told")
		}
		m.end(p)
		m.killedByCgroup()
	})
	t.Run("exec", func(t *testing.T) {
		a := app("sleep", "1000")
		m := bootWith(t, "microvm", small, root, a)
		var told atomic.Int32
		m.session.OnOOM(func() { told.Add(1) })
		p := m.run(a, unikernel.Stdio{})
		for want := int32(1); want <= 3; want++ {
			x, err := m.session.Exec(m.context(), "x", process("sh", "-c", "exec "+greedy), unikernel.Stdio{})
			if err != nil {
				t.Fatal(err)
			}
			<-x.Exited()
			if told.Load() != want {
				t.Errorf("told %d times, want %d", told.Load(), want)
			}
		}
		m.end(p)
		m.killedByCgroup()
	})
	t.Run("crowd", func(t *testing.T) {
		a := app("sh", "-c", crowd+"; wait")
		m := bootWith(t, "microvm", small, root, a)
		told := make(chan struct{}, 1)
		m.session.OnOOM(func() {
			select {
			case told <- struct{}{}:
			default:
			}
		})
		p := m.run(a, unikernel.Stdio{})
		for range 10 {
			select {
			case <-told:
			case <-p.Exited():
				t.Fatal("the container exited")
			case <-time.After(processTimeout):
				t.Fatal("not told")
			}
			if _, err := m.session.(unikernel.Accountant).Stats(m.context()); err != nil {
				t.Fatal(err)
			}
		}
		m.end(p)
		m.killedByCgroup()
	})
}
