package boottest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// TestPark: a parked machine waits for one host after the other, and whoever wakes it
// finds disks and interfaces, and runs a container in it.
func TestPark(t *testing.T) {
	needQEMU(t)
	for _, kind := range []string{"microvm", "q35", "pc"} {
		t.Run(kind, func(t *testing.T) { park(t, kind) })
	}
}

func park(t *testing.T, kind string) {
	a := app("sh", "-c", "ls /sys/class/net; cat /etc/image; echo x >/etc/new && cat /etc/new")
	nic := "virtio-net-pci"
	if kind == "microvm" {
		nic = "virtio-net-device"
	}
	m := boot(t, kind, image(t), a, "-device", nic)
	parker := m.session.(unikernel.Parker)
	if err := parker.Park(m.context()); err != nil {
		t.Fatal(err)
	}
	if err := parker.Park(m.context()); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("a second time: %v", err)
	}
	if _, err := m.session.Run(m.context(), a, unikernel.Stdio{}); !errors.Is(err, unikernel.ErrInvalid) || !strings.Contains(err.Error(), "parked") {
		t.Errorf("run in a parked machine: %v", err)
	}
	m.session.Close()
	m.attachAgain()
	var out lockedBuffer
	if got := m.await(m.run(a, unikernel.Stdio{Stdout: &out})); got != 0 || out.String() != "eth0\nlo\nfrom the image\nx\n" {
		t.Errorf("status %d, stdout %q", got, out.String())
	}
	if err := m.session.(unikernel.Parker).Park(m.context()); !errors.Is(err, unikernel.ErrInvalid) {
		t.Errorf("park a machine that has run: %v", err)
	}
	m.finish()
}

// attachAgain connects to a machine whose guest may not have seen yet that an earlier
// connection was closed, and then says nothing on the next.
func (m *machine) attachAgain() {
	m.t.Helper()
	for patience := time.Second; ; patience *= 2 {
		ctx, cancel := context.WithTimeout(m.t.Context(), patience)
		conn, err := m.dial(ctx)
		if err == nil {
			m.session, err = m.guest.Attach(ctx, conn)
		}
		cancel()
		if err == nil {
			return
		}
		if patience > bootTimeout {
			m.t.Fatal(err)
		}
	}
}
