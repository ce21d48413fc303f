package console

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestConsole: a console that appears late, floods, and ends.
func TestConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	c := Attach(path, nil)
	defer c.Close()
	if got := c.Tail(5); len(got) > 0 {
		t.Errorf("lines before there is a console: %q", got)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		fmt.Fprintf(conn, "line %d\r\n", i)
	}
	fmt.Fprint(conn, "\x1b[31mpanic\x07\n\n")
	conn.Close()
	<-c.Ended()
	if got := c.Tail(2); !slices.Equal(got, []string{"line 4999", "[31mpanic"}) {
		t.Errorf("last lines %q", got)
	}
	if len(c.ring) != keep {
		t.Errorf("%d bytes are kept", len(c.ring))
	}
	if got := c.Tail(1 << 20); len(got) < 100 || strings.Contains(strings.Join(got[1:], ""), "\r") {
		t.Errorf("%d lines", len(got))
	}
}

func TestRing(t *testing.T) {
	for _, sizes := range [][]int{{1, 2, 3}, {keep}, {keep + 5}, {keep - 1, 2}, {keep, keep, 7}, {10, keep - 10, 10, 3*keep + 1}} {
		c := &Console{}
		var all []byte
		for i, n := range sizes {
			chunk := bytes.Repeat([]byte{byte('a' + i)}, n)
			all = append(all, chunk...)
			c.add(chunk)
		}
		want := string(all[max(0, len(all)-keep):])
		if got := strings.Join(c.Tail(1), ""); got != want {
			t.Errorf("%v: %d bytes, want %d", sizes, len(got), len(want))
		}
	}
}

func TestCloseBeforeThereIsAConsole(t *testing.T) {
	c := Attach(filepath.Join(t.TempDir(), "never"), nil)
	c.Close()
	<-c.Ended()
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, filepath.Join(t.TempDir(), "never")); err == nil {
		t.Error("connected to nothing")
	}
}
