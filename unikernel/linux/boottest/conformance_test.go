package boottest

import (
	"syscall"
	"testing"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/guesttest"
)

func TestConformance(t *testing.T) {
	needQEMU(t)
	root := image(t)
	ends := map[uint32]syscall.Signal{0: syscall.SIGHUP, 3: syscall.SIGUSR1, 42: syscall.SIGUSR2}
	const program = "trap 'exit 0' HUP; trap 'exit 3' USR1; trap 'exit 42' USR2; echo ready; while :; do sleep 0.02; done"
	guesttest.Session(t, func(t *testing.T) guesttest.Subject {
		a := app("sh", "-c", program)
		m := boot(t, "microvm", root, a)
		return guesttest.Subject{
			Session: m.session, App: a, Exec: process("sh", "-c", program), Missing: process("nosuch"),
			End: func(p unikernel.Process, status uint32) {
				// Until the trap is set the first process ignores it, and another
				// dies of it.
				m.sh("sleep 1")
				if err := p.Signal(m.context(), ends[status], false); err != nil {
					t.Error(err)
				}
			},
			Break: func() { m.cmd.Process.Kill() },
		}
	})
}
