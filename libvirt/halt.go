package libvirt

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	lv "libvirt.org/go/libvirt"

	"containerd-shim-uni/unikernel"
)

// haltLook is the pause between two looks at the processors of a machine whose guest may
// halt them for good, see unikernel.Board.Halts.
const haltLook = 3 * time.Second

// watchHalt ends a machine of which nothing can wake the processors any more. That they
// are so is seen twice: while an emulated processor is looked at, it goes on.
func (d *Driver) watchHalt(dom *domain) {
	tick := time.NewTicker(haltLook)
	defer tick.Stop()
	for seen := false; ; {
		select {
		case <-tick.C:
		case <-dom.ended:
			return
		case <-d.ctx.Done():
			return
		}
		text, err := d.registers(dom)
		now := err == nil && halted(text)
		if now && seen {
			d.finish(dom, unikernel.End{Reason: unikernel.EndHalted,
				Detail: "all its processors are halted with interrupts off, and nothing can wake them; what it wrote last tells why"})
			_ = dom.vm.signal(unix.SIGKILL)
			return
		}
		seen = now
	}
}

// registers asks QEMU for those of all virtual processors, as its monitor shows them.
func (d *Driver) registers(dom *domain) (string, error) {
	ctx, cancel := context.WithTimeout(d.ctx, askTimeout)
	defer cancel()
	return call(ctx, d, func(c *lv.Connect) (string, error) {
		ldom, err := c.LookupDomainByName(dom.name)
		if err != nil {
			return "", wrap(err, "find it")
		}
		defer ldom.Free()
		text, err := ldom.QemuMonitorCommand("info registers -a", lv.DOMAIN_QEMU_MONITOR_COMMAND_HMP)
		return text, wrap(err, "look at its processors")
	})
}

// processorState is of a dump of registers (QEMU, target/i386/cpu-dump.c): RFLAGS in long
// mode, else EFLAGS, and whether the processor is halted.
var processorState = regexp.MustCompile(`\b[RE]FL=([0-9a-f]+) .*\bHLT=([01])`)

// interruptFlag is that of EFLAGS (Intel SDM, volume 1, 3.4.3.3).
const interruptFlag = 1 << 9

// halted says that all processors of a dump are halted and take no interrupts. One that
// waits for its start by another looks the same.
func halted(dump string) bool {
	cpus := strings.Split(dump, "CPU#")[1:]
	for _, cpu := range cpus {
		m := processorState.FindStringSubmatch(cpu)
		if m == nil || m[2] != "1" {
			return false
		}
		flags, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil || flags&interruptFlag != 0 {
			return false
		}
	}
	return len(cpus) > 0
}
