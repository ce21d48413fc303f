package boottest

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/tsc"
)

// clockError is how far a guest's clock may be off: it was behind by seconds
// before it was set, and is set to 10 ms unless the host is very busy.
const clockError = 100 * time.Millisecond

// TestClock: the program sees the host's time from the start, whatever the
// machine's own clock says, and again after the machine stood still.
func TestClock(t *testing.T) {
	needQEMU(t)
	for _, kind := range []string{"microvm", "q35"} {
		t.Run(kind, func(t *testing.T) {
			a := app("sh", "-c", "busybox adjtimex; exec sleep 1000")
			for _, set := range []*[]string{&a.Spec.Process.Capabilities.Bounding, &a.Spec.Process.Capabilities.Effective, &a.Spec.Process.Capabilities.Permitted} {
				*set = append(slices.Clone(*set), "CAP_SYS_TIME")
			}
			monitor := filepath.Join(t.TempDir(), "qmp.sock")
			m := bootWith(t, kind, unikernel.Resources{MemoryMiB: 128, VCPUs: 2}, image(t), a,
				"-rtc", "base=2001-02-03T04:05:06", "-qmp", "unix:"+monitor+",server=on,wait=off")
			var out lockedBuffer
			began := time.Now()
			p := m.run(a, unikernel.Stdio{Stdout: &out})
			for ctx := m.context(); !strings.Contains(out.String(), "tv_usec") && ctx.Err() == nil; {
				time.Sleep(time.Millisecond)
			}
			checkClock(t, "the program's first look", out.String(), began)
			m.checkClock("an exec")
			if source := strings.TrimSpace(m.sh("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").out); tsc.KHz() > 0 && source != "tsc" {
				t.Errorf("the clock's source is %q, not the processor's counter", source)
			}

			keeper := m.session.(unikernel.Timekeeper)
			q := dialMonitor(t, monitor)
			q.do("stop", nil)
			time.Sleep(2 * time.Second)
			q.do("cont", nil)
			if err := keeper.SetClock(m.context()); err != nil {
				t.Error(err)
			}
			m.checkClock("after a pause")

			// Ahead: it goes slow, and never back.
			caps := process("sh", "-c", "date -s @$(($(date +%s) + 60)) && busybox adjtimex")
			caps.Capabilities = a.Spec.Process.Capabilities
			ahead, _ := readClock(t, m.exec(caps, nil).out)
			if err := keeper.SetClock(m.context()); err != nil {
				t.Error(err)
			}
			now, tick := readClock(t, m.sh("busybox adjtimex").out)
			if now.Before(ahead) || tick != 9000 {
				t.Errorf("a clock that is a minute ahead went from %v to %v, with a tick of %d µs", ahead, now, tick)
			}
			m.end(p)
		})
	}
}

// checkClock compares the guest's clock with the host's.
func (m *machine) checkClock(when string) {
	m.t.Helper()
	began := time.Now()
	checkClock(m.t, when, m.sh("busybox adjtimex").out, began)
}

// checkClock fails unless a clock that was read since began was right.
func checkClock(t *testing.T, when, text string, began time.Time) {
	t.Helper()
	ended := time.Now()
	guest, tick := readClock(t, text)
	if guest.Before(began.Add(-clockError)) || guest.After(ended.Add(clockError)) || tick != 10000 {
		t.Errorf("%s: the guest's clock was %v off when it was read within %v, with a tick of %d µs", when, guest.Sub(began), ended.Sub(began), tick)
	}
}

// readClock takes time and tick from what busybox' adjtimex prints.
func readClock(t *testing.T, text string) (_ time.Time, tick int) {
	t.Helper()
	var sec, usec int64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		switch {
		case strings.HasSuffix(name, "tick"):
			fmt.Sscan(value, &tick)
		case strings.HasSuffix(name, "tv_sec"):
			fmt.Sscan(value, &sec)
		case strings.HasSuffix(name, "tv_usec"):
			fmt.Sscan(value, &usec)
		}
	}
	if sec == 0 || tick == 0 {
		t.Fatalf("no time in %q", text)
	}
	return time.Unix(sec, usec*1000), tick
}

// TestLostTime: nothing of a boot depends on how long something took. A
// processor that is taken away again and again for longer than a kernel measures
// its timer for used to leave it without.
func TestLostTime(t *testing.T) {
	needQEMU(t)
	a := app("true")
	root := image(t)
	for range 2 {
		m := start(t, "microvm", unikernel.Resources{MemoryMiB: 128, VCPUs: 2}, root, a)
		halt := make(chan struct{})
		halted := make(chan struct{})
		go func() {
			defer close(halted)
			for on := time.Duration(1); ; on = on%23 + 1 {
				select {
				case <-halt:
					return
				case <-time.After(on * 2 * time.Millisecond):
				}
				m.cmd.Process.Signal(syscall.SIGSTOP)
				time.Sleep(150 * time.Millisecond)
				m.cmd.Process.Signal(syscall.SIGCONT)
			}
		}()
		m.attach()
		close(halt)
		<-halted
		if s := m.console.String(); s != "" {
			t.Errorf("a boot in which nothing is wrong says %q", s)
		}
		p := m.run(a, unikernel.Stdio{})
		if status := m.await(p); status != 0 {
			t.Errorf("status %d", status)
		}
		m.cleanup()
	}
}
