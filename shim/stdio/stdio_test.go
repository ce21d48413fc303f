package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"containerd-shim-uni/unikernel"

	"golang.org/x/sys/unix"
)

// TestMain makes this program a logging program when it is started as one.
func TestMain(m *testing.M) {
	if mode := os.Getenv("CONTAINER_ID"); mode != "" {
		os.Exit(runLogger(mode))
	}
	os.Exit(m.Run())
}

// runLogger behaves as the container's id says and writes what it reads to the
// file that its arguments name.
func runLogger(mode string) int {
	ready := os.NewFile(5, "ready")
	switch mode {
	case "dies":
		return 1
	case "silent":
		_, _ = io.Copy(io.Discard, os.NewFile(3, "stdout"))
		return 0
	case "closes":
		ready.Close()
	default:
		_, _ = ready.Write([]byte{0})
		ready.Close()
	}
	out, _ := io.ReadAll(os.NewFile(3, "stdout"))
	errs, _ := io.ReadAll(os.NewFile(4, "stderr"))
	text := fmt.Sprintf("%s %s %q out=%s err=%s", os.Getenv("CONTAINER_NAMESPACE"), mode, os.Args[3:], out, errs)
	if err := os.WriteFile(os.Args[2], []byte(text), 0o600); err != nil {
		return 1
	}
	return 0
}

func fifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, cfg Config) *Streams {
	t.Helper()
	s, err := Open(t.Context(), "ns", "id", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.OpenStdin(); err != nil {
		t.Fatal(err)
	}
	return s
}

// client opens a fifo as a client of containerd does.
func client(t *testing.T, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestNoStreams(t *testing.T) {
	s := open(t, Config{})
	io := s.Stdio()
	if io.Stdin != nil || io.Stdout != nil || io.Stderr != nil {
		t.Errorf("%+v: nil says that there is no stream", io)
	}
	s.CloseStdin()
}

// TestNobodyThere: opening does not wait for a client, and closing ends a
// writer that waits for one.
func TestNobodyThere(t *testing.T) {
	s := open(t, Config{Stdin: fifo(t, "0"), Stdout: fifo(t, "1"), Stderr: fifo(t, "2")})
	written := make(chan error)
	go func() {
		_, err := s.Stdio().Stdout.Write(make([]byte, 1<<20)) // more than a pipe holds
		written <- err
	}()
	read := make(chan error)
	go func() {
		_, err := s.Stdio().Stdin.Read(make([]byte, 1))
		read <- err
	}()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Errorf("write: %v", err)
	}
	if err := <-read; err != io.EOF {
		t.Errorf("read: %v", err)
	}
}

// TestClientsComeAndGo: what is written while no client is there waits for the
// next one, who sees the end when the stream is closed.
func TestClientsComeAndGo(t *testing.T) {
	path := fifo(t, "1")
	s := open(t, Config{Stdout: path})
	first := client(t, path, os.O_RDONLY)
	fmt.Fprint(s.Stdio().Stdout, "one")
	buf := make([]byte, 3)
	if _, err := io.ReadFull(first, buf); err != nil || string(buf) != "one" {
		t.Fatalf("first client: %q, %v", buf, err)
	}
	first.Close()
	fmt.Fprint(s.Stdio().Stdout, "two")
	second := client(t, path, os.O_RDONLY)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(second); err != nil || string(rest) != "two" {
		t.Errorf("second client: %q, %v", rest, err)
	}
}

// TestStdinEnds: only CloseStdin ends the input, after what is in the fifo, and
// although a client keeps its end open.
func TestStdinEnds(t *testing.T) {
	path := fifo(t, "0")
	s := open(t, Config{Stdin: path})
	c := client(t, path, os.O_WRONLY)
	stdin := s.Stdio().Stdin
	fmt.Fprint(c, "a")
	buf := make([]byte, 10)
	if n, err := stdin.Read(buf); n != 1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	c.Close() // a client that detaches is no end
	c = client(t, path, os.O_WRONLY)
	result := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(stdin)
		result <- all
	}()
	data := bytes.Repeat([]byte("0123456789"), 3000)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	s.CloseStdin()
	s.CloseStdin()
	if got := <-result; !bytes.Equal(got, data) {
		t.Errorf("read %d bytes before the end, want %d", len(got), len(data))
	}
}

// TestStdinEndsBeforeItIsRead: data that is in the fifo when CloseStdin comes
// is read afterwards.
func TestStdinEndsBeforeItIsRead(t *testing.T) {
	path := fifo(t, "0")
	s := open(t, Config{Stdin: path})
	c := client(t, path, os.O_WRONLY)
	fmt.Fprint(c, "late")
	s.CloseStdin()
	if all, err := io.ReadAll(s.Stdio().Stdin); err != nil || string(all) != "late" {
		t.Errorf("read %q, %v", all, err)
	}
}

func TestStdinEndedBeforeItIsOpen(t *testing.T) {
	s, err := Open(t.Context(), "ns", "id", Config{Stdin: fifo(t, "0")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.CloseStdin()
	if err := s.OpenStdin(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Stdio().Stdin.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestStdinFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, Config{Stdin: path})
	if all, err := io.ReadAll(s.Stdio().Stdin); err != nil || string(all) != "text" {
		t.Errorf("read %q, %v", all, err)
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir", "log")
	for _, line := range []string{"one\n", "two\n"} {
		s := open(t, Config{Stdout: "file://" + path, Stderr: "file://" + path})
		fmt.Fprint(s.Stdio().Stdout, line)
		fmt.Fprint(s.Stdio().Stderr, line)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "one\none\ntwo\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestLostOutput: a stream that fails takes whatever is written, and says no
// word to the writer.
func TestLostOutput(t *testing.T) {
	s := open(t, Config{Stdout: "file:///dev/full"})
	for range 2 {
		if n, err := fmt.Fprint(s.Stdio().Stdout, "x"); n != 1 || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	}
}

func TestTerminalHasNoStderr(t *testing.T) {
	path := fifo(t, "1")
	s := open(t, Config{Stdout: path, Stderr: filepath.Join(t.TempDir(), "absent"), Terminal: true})
	if s.Stdio().Stderr != nil {
		t.Error("there is a standard error")
	}
}

func TestRefused(t *testing.T) {
	for name, cfg := range map[string]Config{
		"scheme":       {Stdout: "ftp://x"},
		"bad URL":      {Stdout: "%zz"},
		"escaped":      {Stdout: "npipe:///x?a=%2Fvar%2Flib"},
		"stdin scheme": {Stdin: "file:///x"},
		"stderr":       {Stderr: "npipe://x"},
	} {
		s, err := Open(t.Context(), "ns", "id", cfg)
		if err == nil {
			err = s.OpenStdin()
		}
		if !errors.Is(err, unikernel.ErrInvalid) || strings.Contains(err.Error(), "%") {
			t.Errorf("%s: %v", name, err)
		}
	}
	absent := filepath.Join(t.TempDir(), "absent")
	for name, cfg := range map[string]Config{"stdout": {Stdout: absent + "/1"}, "stdin": {Stdin: absent + "/0"}} {
		s, err := Open(t.Context(), "ns", "id", cfg)
		if err == nil {
			err = s.OpenStdin()
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func loggerURI(t *testing.T, scheme string) (uri, log string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log = filepath.Join(t.TempDir(), "log")
	return fmt.Sprintf("%s://%s?a=%s&b=two", scheme, self, log), log
}

func TestLogger(t *testing.T) {
	for _, id := range []string{"says", "closes"} {
		uri, log := loggerURI(t, "binary")
		s, err := Open(t.Context(), "ns", id, Config{Stdout: uri, Stderr: uri})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(s.Stdio().Stdout, "o")
		fmt.Fprint(s.Stdio().Stderr, "e")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		want := fmt.Sprintf(`ns %s ["b" "two"] out=o err=e`, id)
		if got, err := os.ReadFile(log); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", id, got, err, want)
		}
	}
}

func TestLoggerNotReady(t *testing.T) {
	for _, id := range []string{"dies", "closes"} {
		uri, _ := loggerURI(t, "binary-v2")
		if _, err := Open(t.Context(), "ns", id, Config{Stdout: uri}); err == nil || !strings.Contains(err.Error(), "before it was ready") {
			t.Errorf("%s: %v", id, err)
		}
	}
	uri, _ := loggerURI(t, "binary")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, "ns", "silent", Config{Stdout: uri}); !errors.Is(err, context.Canceled) {
		t.Errorf("silent: %v", err)
	}
	if _, err := Open(t.Context(), "ns", "x", Config{Stdout: "binary://" + filepath.Join(t.TempDir(), "absent")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
}

// TestLoggerDies: output for a program that has died is discarded.
func TestLoggerDies(t *testing.T) {
	uri, _ := loggerURI(t, "binary")
	s, err := Open(t.Context(), "ns", "says", Config{Stdout: uri})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.logger.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.logger.done
	if n, err := s.Stdio().Stdout.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
}
