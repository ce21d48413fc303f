package prebuilt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"containerd-shim-uni/unikernel"
)

// consoleMachine is a machine that has said something, and then ended.
type consoleMachine struct {
	io.ReadCloser
	end unikernel.End
}

func (m consoleMachine) Console() io.ReadCloser                       { return m.ReadCloser }
func (m consoleMachine) PowerButton(context.Context) error            { return nil }
func (m consoleMachine) Record() ([]byte, error)                      { return nil, errors.ErrUnsupported }
func (m consoleMachine) Ended(context.Context) (unikernel.End, error) { return m.end, nil }

// TestReports: a kernel that says how its program ended is believed, in pieces or whole,
// and its output is as it was.
func TestReports(t *testing.T) {
	for said, want := range map[string]uint32{
		"hello\nSolo5: solo5_exit(7) called\n":                        7,
		"Solo5: solo5_exit(-1) called\r\nmore\n":                      255,
		"Solo5: solo5_exit(0) called\n":                               0,
		"Solo5: ABORT: Stack corruption detected\n":                   255,
		"Solo5: solo5_abort() called\n":                               255,
		"Solo5: trap: type=#PF ec=0x2\nSolo5: ABORT: x\n":             255,
		"the program says Solo5: solo5_exit(7) called\n":              0,
		"Solo5: solo5_exit(7) cal":                                    0,
		strings.Repeat("x", 9000) + "\nSolo5: solo5_exit(3) called\n": 3,
	} {
		for _, one := range []bool{false, true} {
			var r io.Reader = strings.NewReader(said)
			if one {
				r = &slow{r}
			}
			g := &Guest{kernel: kernel{kind: solo5}}
			s := g.Watch(consoleMachine{io.NopCloser(r), unikernel.End{Reason: unikernel.EndExited, Status: 41}})
			var out bytes.Buffer
			p, err := s.Run(t.Context(), unikernel.App{}, unikernel.Stdio{Stdout: &out})
			if err != nil {
				t.Fatal(err)
			}
			<-p.Exited()
			<-p.Drained()
			if exit, err := p.Exit(); err != nil || exit.Status != want || out.String() != said {
				t.Errorf("%.40q: status %d, %v, output of %d bytes; want %d", said, exit.Status, err, out.Len(), want)
			}
			s.Close()
		}
	}
}

// TestReportsOfOSv: its machine ends in one way.
func TestReportsOfOSv(t *testing.T) {
	for said, want := range map[string]uint32{
		"program /hello returned 3\r\n": 3, "program exited with status 9\n": 9, "Aborted\n": 134, "program Aborted\n": 0,
	} {
		l := newListener(osvReports)
		w := l.to(io.Discard)
		_, _ = io.WriteString(w, said)
		w.Close()
		if got, _ := l.last(); got != want {
			t.Errorf("%q: %d, want %d", said, got, want)
		}
	}
}

// slow reads a byte at a time.
type slow struct{ io.Reader }

func (s *slow) Read(p []byte) (int, error) { return s.Reader.Read(p[:1]) }

// TestReportsAskedFor: who asks for a mapping gets it, and an end that is not the guest's
// doing is none of its status.
func TestReportsAskedFor(t *testing.T) {
	const said = "Solo5: solo5_exit(7) called\n"
	for _, tt := range []struct {
		exit string
		end  unikernel.EndReason
		want uint32
		err  error
	}{
		{"raw", unikernel.EndExited, 41, nil},
		{"41=9", unikernel.EndExited, 9, nil},
		{"ignore", unikernel.EndShutdown, 0, nil},
		{"", unikernel.EndShutdown, 7, nil},
		{"", unikernel.EndFailed, 0, unikernel.ErrUnavailable},
	} {
		g := &Guest{cfg: Config{Exit: tt.exit}, kernel: kernel{kind: solo5}}
		s := g.Watch(consoleMachine{io.NopCloser(strings.NewReader(said)), unikernel.End{Reason: tt.end, Status: 41}})
		p, err := s.Run(t.Context(), unikernel.App{}, unikernel.Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		if exit, err := p.Exit(); !errors.Is(err, tt.err) || exit.Status != tt.want {
			t.Errorf("%q, %s: %d, %v", tt.exit, tt.end, exit.Status, err)
		}
		s.Close()
	}
}

// TestNobodyReads: the status does not wait for an output that nobody takes.
func TestNobodyReads(t *testing.T) {
	g := &Guest{kernel: kernel{kind: solo5}}
	s := g.Watch(consoleMachine{io.NopCloser(strings.NewReader("x\n")), unikernel.End{Reason: unikernel.EndShutdown, At: time.Now()}})
	r, w := io.Pipe()
	p, err := s.Run(t.Context(), unikernel.App{}, unikernel.Stdio{Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if exit, err := p.Exit(); err != nil || exit.Status != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	r.Close()
	s.Close()
}
