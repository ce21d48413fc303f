package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReadme: the table of README has every key, once.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "### Configuration")
	if !ok {
		t.Fatal("README has no section Configuration")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	var have, want []string
	word := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		var first string // whose section those have that begin with a dot
		for _, m := range word.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			name := m[1]
			if section, _, _ := strings.Cut(first, "."); strings.HasPrefix(name, ".") {
				name = section + name
			} else {
				first = name
			}
			have = append(have, name)
		}
	}
	for _, k := range keys {
		want = append(want, k.name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("README has the keys\n%q, there are\n%q", have, want)
	}
}
