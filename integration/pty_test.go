package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is the host's end of a pseudo-terminal a command runs in.
type terminal struct {
	*os.File
	mu   sync.Mutex
	seen bytes.Buffer // guarded by mu
	done chan struct{}
}

// inTerminal starts a command in a new pseudo-terminal and reads what it shows.
func inTerminal(t *testing.T, cmd *exec.Cmd, width, height uint16) *terminal {
	t.Helper()
	file, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{File: file, done: make(chan struct{})}
	if err := unix.IoctlSetPointerInt(int(file.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(file.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	term.resize(t, width, height)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go term.read()
	t.Cleanup(func() {
		file.Close()
		<-term.done
		if t.Failed() {
			t.Logf("the terminal showed %q", term.text())
		}
	})
	return term
}

func (term *terminal) read() {
	defer close(term.done)
	buf := make([]byte, 4096)
	for {
		n, err := term.Read(buf)
		term.mu.Lock()
		term.seen.Write(buf[:n])
		term.mu.Unlock()
		if err != nil { // EIO once nobody has the other end open
			return
		}
	}
}

func (term *terminal) resize(t *testing.T, width, height uint16) {
	t.Helper()
	size := unix.Winsize{Col: width, Row: height}
	if err := unix.IoctlSetWinsize(int(term.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
}

// text is what the terminal has shown so far, with plain ends of lines: ctr's
// own terminal and the container's both add a carriage return.
func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return strings.ReplaceAll(term.seen.String(), "\r", "")
}

// expect waits until the terminal has shown a text.
func (term *terminal) expect(t *testing.T, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the terminal shows %q", want), func() bool {
		select {
		case <-term.done:
			if !strings.Contains(term.text(), want) {
				t.Fatalf("the terminal ended without %q: %q", want, term.text())
			}
		default:
		}
		return strings.Contains(term.text(), want)
	})
}
