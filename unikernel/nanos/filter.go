package nanos

import (
	"bytes"
	"io"
	"strings"
)

// filter passes on what a program wrote to the console, without the lines that
// the kernel wrote. Those begin with the time since boot, "[1.234567] ", or
// with "enN: assigned ". A program's line that begins so is lost too; a kernel's
// line in the middle of a program's is not noticed.
//
// What cannot be the kernel's is passed on at once, also without a line's end.
type filter struct {
	out   io.Writer
	state lineState
	held  []byte // the line so far, while it may be the kernel's
	err   error
}

type lineState int

const (
	lineStart lineState = iota // held, not decided
	linePass
	lineDrop
)

// Write implements io.Writer. An error of the writer behind it is kept: what
// follows is discarded, so that the console is read on.
func (f *filter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		switch f.state {
		case lineStart:
			f.held = append(f.held, rest[0])
			rest = rest[1:]
			f.decide()
		default:
			n := len(rest)
			ended := false
			if i := bytes.IndexByte(rest, '\n'); i >= 0 {
				n, ended = i+1, true
			}
			if f.state == linePass {
				f.pass(rest[:n])
			}
			if rest = rest[n:]; ended {
				f.state = lineStart
			}
		}
	}
	return len(p), nil
}

// Close passes on a last line that was not decided.
func (f *filter) Close() error {
	f.pass(f.held)
	f.held = nil
	return f.err
}

func (f *filter) pass(p []byte) {
	if f.err == nil && len(p) > 0 {
		_, f.err = f.out.Write(p)
	}
}

// decide says what the line is that begins with what is held.
func (f *filter) decide() {
	switch match(string(f.held)) {
	case matchNo:
		f.pass(f.held)
		f.state = linePass
		if f.held[len(f.held)-1] == '\n' {
			f.state = lineStart
		}
		f.held = f.held[:0]
	case matchYes:
		f.state, f.held = lineDrop, f.held[:0]
	}
}

type matched int

const (
	matchMaybe matched = iota
	matchNo
	matchYes
)

// match says whether a line that begins with s is the kernel's.
func match(s string) matched {
	if strings.HasPrefix(s, "[") {
		return pattern(s[1:], "N.999999] ")
	}
	return pattern(s, "enN: assigned ")
}

// pattern compares s with a pattern in which N is one or more digits, 9 one.
func pattern(s, p string) matched {
	i := 0
	for ; p != ""; p = p[1:] {
		if i == len(s) {
			return matchMaybe
		}
		switch p[0] {
		case 'N':
			start := i
			for i < len(s) && s[i] >= '0' && s[i] <= '9' && i-start < 10 {
				i++
			}
			if i == start {
				return matchNo
			}
		case '9':
			if s[i] < '0' || s[i] > '9' {
				return matchNo
			}
			i++
		default:
			if s[i] != p[0] {
				return matchNo
			}
			i++
		}
	}
	return matchYes
}
