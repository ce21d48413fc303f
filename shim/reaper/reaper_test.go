package reaper

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOrphan: a daemon that ended is waited for; a child that we wait for
// ourselves is not taken away.
func TestOrphan(t *testing.T) {
	if err := Subreaper(); err != nil {
		t.Fatal(err)
	}
	// The daemon's parent ends at once, so the daemon becomes our child.
	out, err := exec.Command("sh", "-c", "setsid sh -c 'exec sleep 0' >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Skip("no shell with setsid: ", err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	own := exec.Command("true")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	var r Reaper
	for !zombie(orphan) && t.Context().Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if !r.Look() || !zombie(orphan) {
		t.Error("an orphan was taken at the first look")
	}
	r.Look()
	if unix.Kill(orphan, 0) == nil {
		t.Error("an orphan was not waited for")
	}
	if err := own.Wait(); err != nil {
		t.Errorf("a child that is ours was taken: %v", err)
	}
}

func TestChildren(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	found := false
	for _, pid := range childPids() {
		found = found || pid == cmd.Process.Pid
		if pid == os.Getpid() {
			t.Error("we are our own child")
		}
	}
	if !found {
		t.Error("a child was not found")
	}
}
