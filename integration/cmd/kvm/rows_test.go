package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A test that was renamed would be left out without a word.
func TestRowsNameTests(t *testing.T) {
	t.Run("all", func(t *testing.T) { rowsNameTests(t, rows) })
	t.Run("short", func(t *testing.T) { rowsNameTests(t, short) })
}

func rowsNameTests(t *testing.T, rows []row) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range rows {
		if seen[r.name] {
			t.Errorf("two rows are named %q: the second one's results would replace the first one's", r.name)
		}
		seen[r.name] = true
		defined := tests(t, filepath.Join("../../..", r.pkg))
		run := regexp.MustCompile(r.run)
		any := false
		for _, name := range defined {
			any = any || run.MatchString(name)
		}
		if !any {
			t.Errorf("row %s runs no test", r.name)
		}
		list, exact := strings.CutPrefix(r.run, "^(")
		if !exact {
			continue
		}
		for name := range strings.SplitSeq(strings.TrimSuffix(list, ")$"), "|") {
			if !strings.Contains("\n"+strings.Join(defined, "\n")+"\n", "\n"+name+"\n") {
				t.Errorf("row %s: there is no %s in %s", r.name, name, r.pkg)
			}
		}
	}
}

// tests are the names of the tests of a folder.
func tests(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestScript(t *testing.T) {
	r := row{pkg: "./a/b", run: "^(TestX|TestY)$", env: []string{"A=2"}, minutes: 3}
	want := `export A="1"
export B="c d"
export A="2"
cd /opt/uni/a/b && exec /opt/uni/bin/a-b.test -test.run '^(TestX|TestY)$' -test.timeout 3m0s -test.v=test2json
`
	if got := r.script([]string{"A=1", "B=c d"}); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// Rows that want a machine of their own do not change the one of the others.
func TestSplit(t *testing.T) {
	a, b, c := row{name: "a"}, row{name: "b", invariantTSC: true}, row{name: "c"}
	for _, tt := range []struct {
		rows []row
		want string
	}{
		{[]row{a, b, c}, "[[a c] [b]]"},
		{[]row{b}, "[[b]]"},
		{[]row{a}, "[[a]]"},
	} {
		var got [][]string
		for _, rows := range split(tt.rows) {
			var names []string
			for _, r := range rows {
				names = append(names, r.name)
			}
			got = append(got, names)
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("got %v, want %s", got, tt.want)
		}
	}
}
