package libvirt

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// reapGroup reaps the children of ours that are in the process group of a
// helper that has ended, until none is left or ctx ends. virtiofsd's inner process is one
// when the outer ended first, and libvirt waits for the whole group.
func reapGroup(ctx context.Context, group int) {
	for group > 1 && ctx.Err() == nil {
		pid, err := unix.Wait4(-group, nil, unix.WNOHANG, nil)
		if err != nil { // ECHILD: there is none
			return
		}
		if pid == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// probeTick is how often reapProbes looks; a start without a probe is over
// before the first time.
const probeTick = 250 * time.Millisecond

// reapProbes reaps, until it is stopped, the QEMU processes with which libvirt
// finds out what QEMU can do. It does so when QEMU was exchanged since the last
// look, kills each one and waits without end until it is reaped; as orphans
// they are children of this process, which has asked for that.
func reapProbes() (stop func()) {
	session, err := unix.Getsid(0)
	if err != nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(probeTick)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				for _, pid := range children() {
					if isDeadProbe(pid, session) {
						_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
					}
				}
			}
		}
	}()
	return func() { close(quit); <-done }
}

// children returns the children of this process.
func children() []int { return childrenOf("self") }

// childrenOf returns the children of all threads of a process, which is a name
// in /proc.
func childrenOf(process string) []int {
	files, err := filepath.Glob("/proc/" + process + "/task/*/children")
	if err != nil {
		return nil
	}
	var pids []int
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(data)) {
			if pid := number(field); pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// isDeadProbe tells whether a child is the zombie of a QEMU that was no
// machine. A zombie has no command line any more, so the name must do; a
// machine's zombie is reaped by who watches it, and at worst its status is lost
// here. A child in this process's own session is one that libvirt itself
// started and waits for; QEMU as a daemon has left it.
func isDeadProbe(pid, session int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	// proc(5): pid (name) state ppid pgrp session ...; the name may hold anything.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open || !bytes.HasPrefix(stat[open+1:end], []byte("qemu-system-")) {
		return false
	}
	fields := strings.Fields(string(stat[end+1:]))
	return len(fields) > 3 && fields[0] == "Z" && fields[3] != strconv.Itoa(session)
}
