package nanos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"containerd-shim-uni/unikernel"
)

// ended is a machine that said something and shut down.
type ended struct {
	console   io.ReadCloser
	record    []byte
	recordErr error
}

func (e ended) Console() io.ReadCloser            { return e.console }
func (e ended) PowerButton(context.Context) error { return nil }
func (e ended) Record() ([]byte, error)           { return e.record, e.recordErr }
func (e ended) Ended(context.Context) (unikernel.End, error) {
	return unikernel.End{Reason: unikernel.EndShutdown}, nil
}

func TestWatch(t *testing.T) {
	for name, tt := range map[string]struct {
		m    ended
		want uint32
		err  error
	}{
		"status":      {ended{record: []byte("KLOG12345678\x2a\x00\x00\x00")}, 42, nil},
		"without one": {ended{record: make([]byte, 16)}, 0, nil},
		"no record":   {ended{recordErr: io.EOF}, 0, unikernel.ErrUnavailable},
	} {
		tt.m.console = io.NopCloser(strings.NewReader("[0.100000] kernel\nhello\n"))
		s := New(Config{}).Watch(tt.m)
		var out bytes.Buffer
		p, err := s.Run(t.Context(), app(), unikernel.Stdio{Stdout: &out})
		if err != nil {
			t.Fatal(err)
		}
		<-p.Exited()
		<-p.Drained()
		if exit, err := p.Exit(); exit.Status != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: exit %+v, %v", name, exit, err)
		}
		if out.String() != "hello\n" {
			t.Errorf("%s: output %q", name, out.String())
		}
		s.Close()
	}
}
