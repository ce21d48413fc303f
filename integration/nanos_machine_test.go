package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// logged is what containerd and the shims have logged so far.
func (h *host) logged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(h.Log())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// qemu is the values of two options of the one QEMU that runs: type and size.
func (h *host) qemu(t *testing.T) (machine, memory string) {
	t.Helper()
	pids := h.find(t, "qemu-system")
	if len(pids) != 1 {
		t.Fatalf("%d machines", len(pids))
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0]))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(string(text), "\x00")
	value := func(option string) string {
		at := slices.Index(args, option)
		if at < 0 {
			t.Fatalf("QEMU has no option %s", option)
		}
		return args[at+1]
	}
	machine, _, _ = strings.Cut(value("-machine"), ",")
	return machine, value("-m")
}

// The machine's type and size follow from configuration, annotation and limit.
func TestNanosMachine(t *testing.T) {
	annotation := func(set string) []string { return []string{"--annotation", "io.containerd.uni." + set} }
	onNewestNanos(t, "auto", func(t *testing.T, h *host) {
		for name, tt := range map[string]struct {
			flags           []string
			machine, memory string
		}{
			"default":       {nil, "microvm", "256"},
			"q35":           {annotation("machine=q35"), "pc-q35", "256"},
			"small":         {annotation("memory=16MiB"), "pc-q35", "16"},
			"not generous":  {annotation("memory=100MiB"), "pc-q35", "64"},
			"least microvm": {append(annotation("memory=128MiB"), annotation("machine=microvm")...), "microvm", "128"},
		} {
			r := h.start(t, container{flags: tt.flags}, "sh", "-c", spin)
			r.expect(t, "ready")
			if machine, memory := h.qemu(t); !strings.HasPrefix(machine, tt.machine) || memory != tt.memory {
				t.Errorf("%s: %s with %s MiB, want %s with %s", name, machine, memory, tt.machine, tt.memory)
			}
			h.ok(t, "task", "kill", "-s", "SIGKILL", "c1")
			r.finish()
		}
		flags := append(annotation("memory=64MiB"), annotation("machine=microvm")...)
		got := h.run(t, container{flags: flags}, "sh", "-c", "exit 0")
		if got.Code == 0 || !strings.Contains(got.Stderr, "needs 128 MiB") {
			t.Errorf("a small microvm: %+v", got)
		}
		h.ctr(t, "container", "rm", "c1")
	})
}

func TestNanosPauseAndMetrics(t *testing.T) {
	onMachines(t, func(t *testing.T, h *host) {
		h.pauseAndResume(t, container{image: python}, "python3", "-c",
			"import time\nwhile True: print('tick', flush=True); time.sleep(0.02)")
		h.detach(t, container{}, "sh", "-c", spin)
		if h.metric(t, "c1", `memory\.usage(?:_in_bytes)?`) < 1<<20 {
			t.Error("the machine uses less than a MiB")
		}
		const cpu = `cpu(?:acct)?\.usage(?:_usec)?`
		before := h.metric(t, "c1", cpu)
		eventually(t, "the program's time is counted", func() bool { return h.metric(t, "c1", cpu) > before })
		h.remove(t, "c1")
	})
}

// What the guest cannot give is in the log of containerd, once a container, and
// nothing is of a container that asks for nothing.
func TestNanosTellsWhatItLeavesOut(t *testing.T) {
	onNanos(t, func(t *testing.T, h *host) {
		told := func() int { return strings.Count(h.logged(t), "the container does without") }
		before := told()
		h.run(t, container{}, "sh", "-c", "exit 0")
		if n := told() - before; n != 0 {
			t.Errorf("an ordinary container is told %d times", n)
		}
		got := h.run(t, container{flags: []string{"--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_KILL"}}, "sh", "-c", "exit 0")
		if got.Code != 0 {
			t.Fatalf("%+v", got)
		}
		eventually(t, "the container is told", func() bool { return told() == before+1 })
		contains(t, h.logged(t), "does without: capabilities +CAP_SYS_ADMIN -CAP_KILL")
	})
}

// Interfaces keep their order on both types.
func TestNanosTwoNetworks(t *testing.T) {
	nanosOnly(t)
	for _, machine := range []string{"microvm", "q35"} {
		t.Run(machine, func(t *testing.T) {
			onNewestNanos(t, machine, func(t *testing.T, h *host) {
				inside, outside := pod(t, "eth0", "eth1")
				outside.sh(t, `ip addr add 10.0.0.1/24 dev eth0; ip addr add 10.0.1.1/24 dev eth1`)
				inside.sh(t, `ip addr add 10.0.0.2/24 dev eth0; ip addr add 10.0.1.2/24 dev eth1`)
				h.detach(t, container{image: python, flags: join(inside)}, "python3", "-c", server)
				for _, address := range []string{"10.0.0.2", "10.0.1.2"} {
					outside.expect(t, "busybox wget -q -O - http://"+address+"/", "Directory listing")
				}
				h.remove(t, "c1")
			})
		})
	}
}
