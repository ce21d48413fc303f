package linux

import (
	"net"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
	"containerd-shim-uni/unikernel/linux/wire"
)

// FuzzSession: whatever a guest sends while a process runs, the session
// survives or ends, and everything that waits for the process ends with it.
func FuzzSession(f *testing.F) {
	frame := func(kind wire.Kind, id uint32, payload ...[]byte) []byte {
		return wire.AppendFrame(nil, kind, id, payload...)
	}
	f.Add(append(frame(wire.KindData, 1, []byte("\x01out")), frame(wire.KindExit, 1, []byte{7})...))
	f.Add(append(frame(wire.KindEOF, 1, []byte{1}), frame(wire.KindData, 1, []byte{1, 'x'})...))
	f.Add(frame(wire.KindOOM, 0, wire.OOM{Container: 1, Kills: 1}.Encode()))
	f.Add(frame(wire.KindOOM, 0, wire.OOM{Container: 9, Kills: 1}.Encode()))
	f.Add(frame(wire.KindCredit, 1, wire.EncodeCredit(wire.Stdin, 1)))
	f.Add(frame(wire.KindReply, 2, wire.Reply{Code: 9, Text: "x"}.Encode()))
	f.Add([]byte("garbage that is no frame"))
	f.Fuzz(func(t *testing.T, b []byte) {
		host, guest := net.Pipe()
		g := &fakeGuest{t: t, conn: guest, r: wire.NewReader(guest, wire.MaxHostPayload)}
		go g.send(wire.KindHello, 0, wire.Hello{Version: wire.Version}.Encode())
		s, err := New(Config{}).Attach(testContext(t), host)
		if err != nil {
			t.Fatal(err)
		}
		var out, errOut stuckWriter
		out.release, errOut.release = make(chan struct{}), make(chan struct{})
		close(out.release)
		close(errOut.release)
		p, _ := runProcess(t, s, g, unikernel.Stdio{Stdout: &out, Stderr: &errOut})
		g.drain()
		guest.SetWriteDeadline(time.Now().Add(testTimeout))
		guest.Write(b)
		guest.Close()
		within(t, "exit", p.Exited())
		within(t, "drain", p.Drained())
		if x, err := p.Exit(); err == nil && x.Status > 255 {
			t.Errorf("status %d", x.Status)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
