package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"
)

// source is a machine of a test.
type source struct {
	machine Machine
	lines   []string
}

func (s source) Status() Machine { return s.machine }
func (s source) Tail(n int) []string {
	return s.lines[max(0, len(s.lines)-n):]
}

// sandbox makes one below dir that is served.
func sandbox(t *testing.T, dir, name string, s source) string {
	t.Helper()
	d := filepath.Join(dir, name)
	if err := os.Mkdir(d, 0o700); err != nil {
		t.Fatal(err)
	}
	server, err := Serve(filepath.Join(d, Socket), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return d
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	b := Machine{Namespace: "ns", ID: "b", State: "up", Created: time.Unix(1, 0).UTC(), Stages: map[string]int64{"boot": 3},
		Containers: []Container{{ID: "b", State: "running", Started: time.Unix(2, 0).UTC(), Used: &Used{Pids: 4}}}}
	a := Machine{Namespace: "ns", ID: "a", Kind: KindPod}
	sandbox(t, dir, "1", source{machine: b})
	sandbox(t, dir, "2", source{machine: a})
	if err := os.Mkdir(filepath.Join(dir, "libvirt"), 0o700); err != nil { // what is no sandbox
		t.Fatal(err)
	}
	found, err := List(t.Context(), dir)
	if err != nil || len(found) != 2 || !reflect.DeepEqual(found[0].Machine, a) || !reflect.DeepEqual(found[1].Machine, b) {
		t.Errorf("%+v, %v", found, err)
	}
	if none, err := List(t.Context(), filepath.Join(dir, "absent")); err != nil || none != nil {
		t.Errorf("no directory: %v, %v", none, err)
	}
}

func TestConsole(t *testing.T) {
	d := sandbox(t, t.TempDir(), "1", source{lines: []string{"one", "two", "three"}})
	lines, err := Console(t.Context(), d, 2)
	if err != nil || !reflect.DeepEqual(lines, []string{"two", "three"}) {
		t.Errorf("%q, %v", lines, err)
	}
}

// TestNoShim: a socket that was left behind is told from one whose shim hangs.
func TestNoShim(t *testing.T) {
	dir := t.TempDir()
	dead, dying, hung := filepath.Join(dir, "dead"), filepath.Join(dir, "dying"), filepath.Join(dir, "hung")
	for _, d := range []string{dead, dying, hung} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dead, dying, hung} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d, Socket), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if d == dead {
			_ = l.Close()
			continue
		}
		if d == dying { // with who had connected
			go func() {
				if conn, err := l.Accept(); err == nil {
					_ = conn.Close()
				}
			}()
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	found, err := List(ctx, dir)
	if err != nil || len(found) != 3 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, s := range found[:2] {
		if !errors.Is(s.Err, ErrNoShim) {
			t.Errorf("%s: %v", s.Dir, s.Err)
		}
	}
	if err := found[2].Err; err == nil || errors.Is(err, ErrNoShim) {
		t.Errorf("a shim that hangs: %v", err)
	}
}

// TestRudeClients: whatever connects, others are answered, and Close ends all.
func TestRudeClients(t *testing.T) {
	d := sandbox(t, t.TempDir(), "1", source{machine: Machine{ID: "x"}})
	socket := filepath.Join(d, Socket)
	long := make([]byte, 2*maxRequest)
	for i := range long {
		long[i] = 'a'
	}
	for _, said := range [][]byte{nil, []byte("nonsense\n"), long, []byte("{}")} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(said)
		_ = conn.Close()
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if a, err := ask(t.Context(), socket, Request{}); err != nil || a.Machine.ID != "x" {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	all.Wait()
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v, %v", info, err)
	}
}

// TestLarge: a machine of as many containers as there can be fits.
func TestLarge(t *testing.T) {
	m := Machine{}
	for i := range 128 {
		m.Containers = append(m.Containers, Container{ID: fmt.Sprintf("%064d", i), Bundle: string(make([]byte, 4096)), Used: &Used{}})
	}
	d := sandbox(t, t.TempDir(), "1", source{machine: m})
	a, err := ask(t.Context(), filepath.Join(d, Socket), Request{})
	if err != nil || len(a.Machine.Containers) != 128 {
		t.Error(err)
	}
	if text, _ := json.Marshal(a); len(text) > maxAnswer {
		t.Error(len(text))
	}
}
