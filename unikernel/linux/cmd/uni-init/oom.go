package main

import (
	"bytes"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// oomWatch tells the host of processes of one container that the kernel killed for
// want of memory. The kernel's counter is the truth: it is raised before the victim
// gets its signal, so looking at it before each exit is told misses nothing.
// The kernel's log only says when to look while nothing exits that the host
// knows of; a line that the ring overwrote is no loss.
type oomWatch struct {
	send   func(kills uint64)
	events string // path of memory.events of the container's cgroup

	mu    sync.Mutex // guards known, and the order of what is sent
	known uint64
}

// look tells of what was killed since the last look, and whether it was
// anything. The counter oom_kill is of all processes in the cgroup and below it,
// whether its own limit or the machine's was reached (mm/oom_kill.c).
func (w *oomWatch) look() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	text, err := os.ReadFile(w.events)
	if err != nil {
		return false
	}
	now := counter(text, "oom_kill")
	if now <= w.known {
		return false
	}
	w.send(now - w.known)
	w.known = now
	return true
}

// counter returns the value of a name in lines of name, value and maybe a unit; 0
// without it.
func counter(text []byte, name string) uint64 {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != name {
			continue
		}
		var n uint64
		for _, c := range fields[1] {
			if c < '0' || c > '9' {
				return 0
			}
			n = n*10 + uint64(c-'0')
		}
		return n
	}
	return 0
}

// followOOM looks at every container whenever the kernel logs that it killed
// somebody.
func (s *server) followOOM() {
	look := func() {
		for _, c := range s.all() {
			c.oom.look()
		}
	}
	const longestRecord = 8 << 10 // bytes; CONSOLE_EXT_LOG_MAX of the kernel
	log, err := os.Open("/dev/kmsg")
	if err != nil {
		console("out of memory is told late: " + err.Error())
		return
	}
	log.Seek(0, 2)
	buf := make([]byte, longestRecord)
	for {
		n, err := log.Read(buf) // one record
		switch {
		case isErrno(err, unix.EPIPE): // the ring went round
			look()
		case err != nil:
			console("out of memory is told late: " + err.Error())
			return
		case bytes.Contains(buf[:n], []byte(": Killed process ")):
			look()
		}
	}
}
