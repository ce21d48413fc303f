package unikernel

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable makes text of a guest fit for a log and a terminal: one line, at
// most limit bytes, without what moves a cursor, sets a colour or turns the
// direction of writing. White space becomes a space, anything else that has no
// glyph a question mark.
func Printable(text string, limit int) string {
	var b strings.Builder
	for _, r := range text[:min(len(text), limit)] {
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
