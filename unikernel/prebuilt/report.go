package prebuilt

import (
	"bytes"
	"io"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// report is what a kernel writes to its console about the end of its program, where that
// tells more than how the machine ends.
type report struct {
	line *regexp.Regexp
	// status is what the line means whose first group is no number.
	status uint32
}

// Of Solo5's own words (bindings/exit.c, abort.c, cpu_x86_64.c): 255 is its status of
// an abort (SOLO5_EXIT_ABORT in include/solo5.h).
var solo5Reports = []report{
	{regexp.MustCompile(`^Solo5: solo5_exit\((-?\d+)\) called`), 0},
	{regexp.MustCompile(`^Solo5: (ABORT:|solo5_abort\(\) called|trap: type=)`), 255},
}

// osvReports are those of OSv (core/app.cc and runtime.cc), the first with --verbose;
// 134 is a process's status after abort(3).
var osvReports = []report{
	{regexp.MustCompile(`^program (?:\S+ returned|exited with status) (-?\d+)`), 0},
	{regexp.MustCompile(`^(Aborted)\r?$`), 134},
}

const (
	// maxReport is how much of a line is looked at, in bytes.
	maxReport = 256
	// reportPatience is how long after the machine's end the rest of its console may take
	// to be read.
	reportPatience = time.Second
)

// listener passes a console on and looks for reports. A line of the program's own that
// looks like one counts as one: it only says of itself how it ended.
type listener struct {
	reports []report
	out     io.Writer
	err     error
	line    []byte
	done    chan struct{}

	mu     sync.Mutex
	status uint32
	found  bool
}

func newListener(reports []report) *listener {
	return &listener{reports: reports, done: make(chan struct{})}
}

// to begins to listen to what goes to a writer. It is called once.
func (l *listener) to(out io.Writer) io.WriteCloser {
	l.out = out
	return l
}

// Write implements io.Writer. It keeps an error and discards what follows, so that the
// console is read on.
func (l *listener) Write(p []byte) (int, error) {
	if l.err == nil && len(p) > 0 {
		_, l.err = l.out.Write(p)
	}
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		l.line = append(l.line, part[:min(len(part), maxReport-len(l.line))]...)
		if ended {
			l.heed()
		}
		rest = after
	}
	return len(p), nil
}

// heed looks at a whole line.
func (l *listener) heed() {
	for _, r := range l.reports {
		m := r.line.FindSubmatch(l.line)
		if m == nil {
			continue
		}
		status := r.status
		if n, err := strconv.ParseInt(string(m[1]), 10, 32); err == nil {
			status = uint32(n) & 0xff
		}
		l.mu.Lock()
		l.status, l.found = status, true
		l.mu.Unlock()
	}
	l.line = l.line[:0]
}

// Close implements io.Closer: the console has ended.
func (l *listener) Close() error {
	close(l.done)
	return l.err
}

// last returns what the last report said. The machine has ended.
func (l *listener) last() (status uint32, ok bool) {
	timer := time.NewTimer(reportPatience)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C: // nobody reads the output
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status, l.found
}
