package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSum(t *testing.T) {
	const unit = `{"Action":"start","Package":"p"}
{"Action":"pass","Package":"p","Test":"A/one"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"skip","Package":"p","Test":"C"}
{"Action":"pass","Package":"p"}
`
	tests := []struct {
		name   string
		files  []string
		listed []string
		want   string
		ok     bool
	}{
		{"skips are not judged", []string{unit}, nil, "1 passed, 0 failed, 2 skipped", true},
		{"a skip that is not listed", []string{unit}, []string{"B"}, "1 passed, 1 failed, 1 skipped", false},
		{"run later", []string{unit, `{"Action":"pass","Package":"p","Test":"B"}`}, []string{"C"}, "2 passed, 0 failed, 1 skipped", true},
		{"fails later", []string{unit, `{"Action":"fail","Package":"p","Test":"B"}` + "\n" + `{"Action":"fail","Package":"p"}`}, []string{"C"}, "1 passed, 1 failed, 1 skipped", false},
		{"does not end", []string{unit, `{"Action":"run","Package":"p","Test":"D"}`}, nil, "1 passed, 1 failed, 2 skipped", false},
		{"does not build", []string{unit, `{"Action":"build-fail","ImportPath":"q"}`}, nil, "1 passed, 1 failed, 2 skipped", false},
		{"nothing ran", []string{""}, nil, "0 passed, 0 failed, 0 skipped", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sum{listed: tt.listed}
			for _, f := range tt.files {
				if err := s.read(strings.NewReader(f)); err != nil {
					t.Fatal(err)
				}
			}
			var out strings.Builder
			ok := s.print(&out)
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if got := lines[len(lines)-1]; got != tt.want || ok != tt.ok {
				t.Errorf("got %q, %t, want %q, %t", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestShowPrintsOnlyWhatFailed(t *testing.T) {
	var out strings.Builder
	ok, err := show(&out, strings.NewReader(`{"Action":"output","Package":"p","Test":"A","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"loud\n"}
{"Action":"fail","Package":"p","Test":"B","Elapsed":1.5}
`))
	if want := "loud\nFAIL  p B (1.5 s)\n"; ok || err != nil || out.String() != want {
		t.Errorf("got %q, %t, %v, want %q", out.String(), ok, err, want)
	}
}

func TestSkipListWantsReasons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skips")
	for text, want := range map[string]int{"# comment\n\nTestA because\n": 1, "": 0, "TestA\n": -1} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		listed, err := readSkips(path)
		if want < 0 && err == nil || want >= 0 && (err != nil || len(listed) != want) {
			t.Errorf("%q: got %q, %v", text, listed, err)
		}
	}
}
