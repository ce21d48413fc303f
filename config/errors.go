package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong in a configuration file.
type Problem struct {
	// Line counts from 1.
	Line int
	// Text says what is wrong and what is allowed.
	Text string
}

// String returns the problem as "line 3: …".
func (p Problem) String() string { return fmt.Sprintf("line %d: %s", p.Line, p.Text) }

// Error is everything that is wrong in a configuration file, in the order of
// its lines. It wraps ErrInvalid.
type Error struct {
	File     string
	Problems []Problem
}

// Error returns all problems on one line of text.
func (e *Error) Error() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.String()
	}
	return fmt.Sprintf("%s: %s", e.File, strings.Join(texts, "; "))
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }
