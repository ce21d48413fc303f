package unikernel

import (
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		`exec: "größe": not found`:                `exec: "größe": not found`,
		"\x1b[2J\x1b]0;title\x07x":                "?[2J?]0;title?x",
		"no\ntime=\"2026\" level=info msg=forged": `no time="2026" level=info msg=forged`,
		"a\tb\r\nc":        "a b  c",
		"abc\u202egpj.exe": "abc?gpj.exe",
		"\xff\xfe":         "??",
		"0123456789012345678901234567890123456789": "0123456789012345678901234567890123456789",
	} {
		if got := Printable(text, 100); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	if got := Printable("größe", 4); got != "gr?" && got != "grö" {
		t.Errorf("cut to %q", got)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31mred\n", 5)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		if limit < 0 {
			return
		}
		got := Printable(text, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("%q is longer than %d bytes or no UTF-8", got, limit)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %U", got, r)
			}
		}
	})
}
